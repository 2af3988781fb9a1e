// The halves of a ConvGRU's time step as kernels of their own, between convolutions that a library computes
// (ops/cuda/aten_gru.cpp). Arrays of a convolution, its operands and results, lie in `layout`; all others are
// contiguous.
#pragma once

#include "cuda/common/gru_step.h"
#include "cuda/gates/layout.h"

namespace pdb::cuda {

// sums: x has the rows of all three gates, h those of this half's. step: x, weights and rh are not used; everything
// else as in a fused step. operand: (N, C, H, W): r . h_{t-1}, or h_t again (null if `layout` is contiguous, since
// step.h serves).
template <class T>
int launch_gru_gates_forward(const Layer& layer, Layout layout, GruHalf half, const GateSums<T>& sums,
                             const GruForwardStep<T>& step, T* operand, Stream stream);

// The halves' convolutions backward have operands of their own: gradients of the pre-activations, rounded.
template <class T>
struct GruHalfGradients {
  // (N, C, H, W): in the half `update` what reaches h_t from the step that ran after through r and z, null at the last
  // step; in the half `reset` the gradient of r . h_{t-1}.
  const T* grad;
  T* grad_reset;   // (N, 2C, H, W): of r, written by the half `reset`, and z, by the half `update`
  T* grad_update;  // (N, C, H, W): of n, written by the half `update`
  T* rh;           // (N, C, H, W): r . h_{t-1} again, written by the half `reset`, or null
};

// step: grad_gates_next, weights, rh, grad_gates and grad_h_0 are not used; everything else as in a fused step.
template <class T>
int launch_gru_gates_backward(const Layer& layer, Layout layout, GruHalf half, const GruHalfGradients<T>& gradients,
                              const GruBackwardStep<T>& step, Stream stream);

}  // namespace pdb::cuda
