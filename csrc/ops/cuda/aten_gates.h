// The cell of one time step on tensors: in one kernel (gates.h), or in PyTorch's own operators on a GPU that can run
// none of our kernels. A is the accumulation dtype. An "operand" is an array of a convolution: of x's dtype, in
// `format`.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "cuda/common/layer.h"

namespace pdb::cuda {

// Undefined tensors stand for zeros, or for results that are not wanted.
struct AtenForwardStep {
  at::Tensor gates_x, gates_h;  // (N, 4C, H, W) operands: the two convolutions, without bias
  at::Tensor c_previous;        // (N, C, H, W), A
  at::Tensor h;                 // (N, C, H, W), of x's dtype, contiguous
  at::Tensor h_operand;         // (N, C, H, W) operand; undefined if h serves as the operand
  at::Tensor c;                 // (N, C, H, W), A; may be c_previous
  at::Tensor gates;             // (N, 4, C, H, W), of x's dtype: activations
};

struct AtenBackwardStep {
  at::Tensor grad_output;       // (N, C, H, W), of x's dtype
  at::Tensor grad_h;            // (N, C, H, W) operand: from the step that ran after this one; undefined at the last
  at::Tensor grad_c_n;          // (N, C, H, W), of x's dtype; read at the last step
  at::Tensor gates;             // (N, 4, C, H, W), of x's dtype; if undefined they are recomputed from ...
  at::Tensor gates_x, gates_h;  // ... these: (N, 4C, H, W) operands
  at::Tensor c, c_previous;     // (N, C, H, W), A
  at::Tensor grad_c;            // (N, C, H, W), A: in, the gradient of c_t (ignored at the last step); out, of c_{t-1}
  at::Tensor grad_gates;        // (N, 4C, H, W) operand; may be gates_x
  at::Tensor grad_peephole;     // (N, 3, C, H, W), A: added to
};

struct AtenCell {
  const Layer& layer;
  at::MemoryFormat format;
  std::optional<at::Tensor> bias, peephole;  // (4C), contiguous; (3, C, H, W)
  bool has_kernels;                          // see device.h
  Stream stream;

  void forward(const AtenForwardStep& step) const;
  void backward(const AtenBackwardStep& step) const;
};

}  // namespace pdb::cuda
