// The halves of a ConvGRU's time step on tensors: each in one kernel (gru_gates.h), or in PyTorch's own operators on a
// GPU that can run none of our kernels. A and "operand" as in aten_gates.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "cuda/common/gru_step.h"

namespace pdb::cuda {

// Undefined tensors stand for zeros, or for results that are not wanted.
struct AtenGruForwardStep {
  at::Tensor gates_x;     // (N, 3C, H, W) operand: the convolution of x, without bias
  at::Tensor gates_h;     // (N, 2C, H, W) or (N, C, H, W) operand: that of the half
  at::Tensor h_previous;  // (N, C, H, W), of x's dtype, contiguous
  at::Tensor z;           // (N, C, H, W), A: from the first half to the second
  at::Tensor h;           // (N, C, H, W), of x's dtype, contiguous
  at::Tensor operand;     // (N, C, H, W) operand: r . h_{t-1}, or h_t; undefined if h serves as the operand
  at::Tensor gates;       // (N, 3, C, H, W), of x's dtype: activations
};

struct AtenGruBackwardStep {
  at::Tensor grad_output;  // (N, C, H, W), of x's dtype
  at::Tensor grad;         // (N, C, H, W) operand, as in GruHalfGradients
  at::Tensor gates;        // (N, 3, C, H, W), of x's dtype
  at::Tensor h_previous;   // (N, C, H, W), of x's dtype, contiguous
  at::Tensor grad_h;       // (N, C, H, W), A, as in GruBackwardStep
  at::Tensor grad_reset;   // (N, 2C, H, W) operand
  at::Tensor grad_update;  // (N, C, H, W) operand
  at::Tensor rh;           // (N, C, H, W) operand
};

struct AtenGruCell {
  const Layer& layer;
  at::MemoryFormat format;
  std::optional<at::Tensor> bias;  // (3C), contiguous
  bool has_kernels;                // see device.h
  Stream stream;

  void forward(GruHalf half, const AtenGruForwardStep& step) const;
  void backward(GruHalf half, const AtenGruBackwardStep& step) const;
};

}  // namespace pdb::cuda
