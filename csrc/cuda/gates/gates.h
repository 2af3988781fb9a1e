// The cell of one time step as a kernel of its own, between convolutions that a library computes
// (ops/cuda/aten_layer.cpp). Arrays of a convolution, its operands and results, lie in `layout`; all others are
// contiguous as in cuda/common/layer.h.
#pragma once

#include "cuda/common/step.h"
#include "cuda/gates/layout.h"

namespace pdb::cuda {

// step: x, h_previous, weight_x and weight_h are not used; everything else as in a fused step. operand: (N, C, H, W):
// h_t again, for the next convolution; null if `layout` is contiguous, since step.h serves.
template <class T>
int launch_gates_forward(const Layer& layer, Layout layout, const GateSums<T>& sums, const ForwardStep<T>& step,
                         T* operand, Stream stream);

template <class T>
struct GateGradients {
  using A = accumulation_t<T>;
  const T* grad_h;   // (N, C, H, W): what reaches h_t from the step that ran after this one; null at the last step
  GateSums<T> sums;  // if step.gates is null: the pre-activations, from which the gates are recomputed
  const T* bias;     // (4C) or null; read only with sums
  T* grad_gates;     // (N, 4C, H, W): gradients of the pre-activations, rounded: operand of the next convolutions
  A* grad_peephole;  // (N, 3, C, H, W), or null: added to
};

// step: grad_gates_next, weight_h and grad_gates are not used; gates may be null; everything else as in a fused step.
template <class T>
int launch_gates_backward(const Layer& layer, Layout layout, const GateGradients<T>& gradients,
                          const BackwardStep<T>& step, Stream stream);

}  // namespace pdb::cuda
