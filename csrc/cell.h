// The ConvLSTM cell for one channel of one pixel, forward and backward: the only place that holds its formulas. V is
// float or double, or a vector of them (cpu/kernels/vec.h) whose sigmoid(), tanh() and unit() are found by
// argument-dependent lookup.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define PDB_HD __host__ __device__ __forceinline__
#else
#define PDB_HD inline __attribute__((always_inline))
#endif

namespace pdb {

// 1 / x. On a GPU within 2 ulp: an exact division has a branch for rare divisors, which keeps the compiler from
// interleaving cells.
#if defined(__CUDA_ARCH__)
PDB_HD float reciprocal(float x) { return __fdividef(1.0f, x); }
#elif !defined(PDB_DEVICE_FUNCTIONS)  // tests/kernels/cuda_host/device_functions.h defines it with the errors of a GPU
PDB_HD float reciprocal(float x) { return 1.0f / x; }
#endif

PDB_HD float sigmoid(float x) { return reciprocal(1.0f + expf(-x)); }
PDB_HD double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
PDB_HD float tanh(float x) { return tanhf(x); }
PDB_HD double tanh(double x) { return ::tanh(x); }

// 1 in the type of the argument.
PDB_HD float unit(float) { return 1.0f; }
PDB_HD double unit(double) { return 1.0; }

// The four gates, before or after their activation, or the gradients of the loss with respect to them.
template <class V>
struct Gates {
  V i, f, o, g;
};

// Weights of the cell state in the gates i, f and o; zero for a cell without peepholes.
template <class V>
struct Peephole {
  V i, f, o;
};

// The forward step in two halves. First the new state c_t: pre-activations become activations in place, except o, to
// which only its peephole term is added (it reads c_t if peephole_current, else c_{t-1}).
template <class V>
PDB_HD V cell_state(Gates<V>& gates, const Peephole<V>& peephole, V c_previous, bool peephole_current) {
  gates.i = sigmoid(gates.i + peephole.i * c_previous);
  gates.f = sigmoid(gates.f + peephole.f * c_previous);
  gates.g = tanh(gates.g);
  const V c = gates.f * c_previous + gates.i * gates.g;
  gates.o = gates.o + peephole.o * (peephole_current ? c : c_previous);
  return c;
}
// Then h_t; turns the pre-activation o into its activation.
template <class V>
PDB_HD V cell_output(V& o, V c) {
  o = sigmoid(o);
  return o * tanh(c);
}

template <class V>
PDB_HD void cell_forward(Gates<V>& gates, const Peephole<V>& peephole, V c_previous, bool peephole_current, V& c,
                         V& h) {
  c = cell_state(gates, peephole, c_previous, peephole_current);
  h = cell_output(gates.o, c);
}

// gates: activations saved by cell_forward. dh: gradient of h_t. dc: in, the gradient that reaches c_t from later
// steps; out, the gradient of c_{t-1}. dgates: gradients of the pre-activations.
// The gradients of the peephole weights are the sums of dgates.i * c_{t-1}, dgates.f * c_{t-1} and dgates.o * (c_t or
// c_{t-1}).
template <class V>
PDB_HD void cell_backward(const Gates<V>& gates, const Peephole<V>& peephole, V c_previous, V c, bool peephole_current,
                          V dh, V& dc, Gates<V>& dgates) {
  const V one = unit(dc);
  const V tanh_c = tanh(c);
  dgates.o = dh * tanh_c * gates.o * (one - gates.o);
  dc = dc + dh * gates.o * (one - tanh_c * tanh_c);
  if (peephole_current) dc = dc + dgates.o * peephole.o;
  dgates.i = dc * gates.g * gates.i * (one - gates.i);
  dgates.f = dc * c_previous * gates.f * (one - gates.f);
  dgates.g = dc * gates.i * (one - gates.g * gates.g);
  dc = dc * gates.f + dgates.i * peephole.i + dgates.f * peephole.f;
  if (!peephole_current) dc = dc + dgates.o * peephole.o;
}

}  // namespace pdb
