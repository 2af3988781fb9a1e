// The arrays of one time step of a ConvGRU, forward and backward, as a kernel receives them. A step has two halves,
// each with the convolutions whose results it needs, because the convolution of n reads r . h_{t-1}, which all channels
// and pixels around have to contribute to. Conventions as in cuda/common/layer.h.
#pragma once

#include "cuda/common/layer.h"
#include "gru_cell.h"

namespace pdb::cuda {

enum class GruHalf {
  reset,   // the gates r and z: first in forward, last in backward
  update,  // n and the new state
};

// The gates of a half lie behind each other, from the first on.
PDB_HD constexpr int gru_gates(GruHalf half) { return half == GruHalf::reset ? 2 : 1; }
PDB_HD constexpr int gru_first_gate(GruHalf half) { return half == GruHalf::reset ? kGateR : kGateN; }

template <class T>
struct GruForwardStep {
  using A = accumulation_t<T>;
  const T* x;                    // (N, Cin, H, W)
  const T* h_previous;           // (N, C, H, W), or null for zeros
  const A *reset_x, *reset_h;    // weights of r and z, packed as gates
  const A *update_x, *update_h;  // weights of n
  const T* bias;                 // (3C) or null
  A* z;                          // (N, C, H, W): from the first half to the second
  T* rh;                         // (N, C, H, W): r . h_{t-1}, likewise
  T* h;                          // (N, C, H, W)
  T* gates;                      // (N, 3, C, H, W): activations, or null
};

// Backward starts with the half `update`: the gradient of h_t, from the output and from the step that ran after.
template <class T>
struct GruBackwardStep {
  using A = accumulation_t<T>;
  const T* grad_output;      // (N, C, H, W) at this frame, or null for zeros
  const T* grad_gates_next;  // (N, 3C, H, W): of the step that ran after this one, or null: this is the last step
  const A* reset_h;          // weights of r and z, packed as transposed
  const A* update_h;         // weights of n
  const T* gates;            // (N, 3, C, H, W)
  const T* h_previous;       // (N, C, H, W), or null for zeros
  // (N, C, H, W): in, what reaches h_t from the step that ran after without a convolution (ignored at the last step);
  // out, the same for h_{t-1}, to which the halves contribute one after the other.
  A* grad_h;
  T* rh;          // (N, C, H, W): r . h_{t-1} again, for the gradient of the weights, or null
  T* grad_gates;  // (N, 3C, H, W): gradients of the pre-activations
  T* grad_h_0;    // not null: there is no step here, and the half `update` only stores the gradient of h_0
};

}  // namespace pdb::cuda
