// The cell of one time step as a kernel of its own, between convolutions that a library computes (aten_layer.cpp).
// Arrays of a convolution, its operands and results, lie in `layout`; all others are contiguous as in sequence.h.
#pragma once

#include "cuda/step/kernels.h"

namespace pdb::cuda {

// Order in memory of an array (N, channels, H, W): as written, or (N, H, W, channels), which is what libraries'
// tensor-core convolutions read and write without rearranging it first.
enum class Layout { contiguous, channels_last };

// The parts of the pre-activations.
template <class T>
struct GateSums {
  const T* x;  // (N, 4C, H, W): convolution of x_t, without bias
  const T* h;  // (N, 4C, H, W): convolution of h_{t-1}, or null for zeros
};

// step: x, h_previous, weight_x and weight_h are not used; all else as in a fused step.
// operand: (N, C, H, W): h_t once more, for the next convolution; null where `layout` is contiguous, as step.h is it.
template <class T>
int launch_gates_forward(const Layer& layer, Layout layout, const GateSums<T>& sums, const ForwardStep<T>& step,
                         T* operand, Stream stream);

template <class T>
struct GateGradients {
  using A = accumulation_t<T>;
  const T* grad_h;   // (N, C, H, W): what reaches h_t from the step that ran after this one; null at the last step
  GateSums<T> sums;  // where step.gates is null: the pre-activations, from which the gates are computed again
  const T* bias;     // (4C) or null; read with sums only
  T* grad_gates;     // (N, 4C, H, W): gradients of the pre-activations, rounded: operand of the next convolutions
  A* grad_peephole;  // (N, 3, C, H, W), or null: added to
};

// step: grad_gates_next, weight_h and grad_gates are not used; gates may be null; all else as in a fused step.
template <class T>
int launch_gates_backward(const Layer& layer, Layout layout, const GateGradients<T>& gradients,
                          const BackwardStep<T>& step, Stream stream);

}  // namespace pdb::cuda
