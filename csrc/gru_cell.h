// The ConvGRU cell for one channel of one pixel, forward and backward: the only place that holds its formulas. V as in
// cell.h. The reset gate acts before the convolution of n (Ballas et al. 2016), so that each way has two halves with a
// convolution between them.
#pragma once

#include "cell.h"

namespace pdb {

// The packed order of the three gates, wherever they lie in memory one after the other (as gate.h's): nn.GRU's.
enum GruGate { kGateR, kGateZ, kGateN };  // reset, update, candidate ("new")

constexpr int kGruGateCount = 3;

// The forward step. First half: the pre-activations r and z become activations in place. Returns r . h_{t-1}, which the
// convolution with W_hn reads.
template <class V>
PDB_HD V gru_reset(V& r, V& z, V h_previous) {
  r = sigmoid(r);
  z = sigmoid(z);
  return r * h_previous;
}
// Second half: the pre-activation n becomes its activation. z: activation. Returns h_t = (1 - z) . n + z . h_{t-1}.
template <class V>
PDB_HD V gru_update(V& n, V z, V h_previous) {
  n = tanh(n);
  return n + z * (h_previous - n);
}

// The backward step. First half, the inverse of gru_update: z and n are activations, dh the gradient of h_t; dz and dn
// become gradients of the pre-activations. Returns what reaches h_{t-1} directly, through z . h_{t-1}.
template <class V>
PDB_HD V gru_update_backward(V z, V n, V h_previous, V dh, V& dz, V& dn) {
  const V one = unit(dh), keep = one - z;
  dz = dh * (h_previous - n) * z * keep;
  dn = dh * keep * (one - n * n);
  return dh * z;
}
// Second half: drh is the gradient of r . h_{t-1}, the transposed convolution of dn with W_hn. dr becomes the gradient
// of the pre-activation. Returns what reaches h_{t-1} through r . h_{t-1}; what reaches it through the pre-activations
// of r and z is the transposed convolution of dr and dz with W_hr and W_hz.
template <class V>
PDB_HD V gru_reset_backward(V r, V h_previous, V drh, V& dr) {
  dr = drh * h_previous * r * (unit(r) - r);
  return drh * r;
}

}  // namespace pdb
