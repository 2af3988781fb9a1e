// A layer whose convolutions PyTorch (cuDNN) computes: the path `aten`, for many channels, pixels or images, and for
// GPUs that can run none of our kernels. Everything runs on the current stream and device, in a fixed order, and can be
// captured in a graph.
#pragma once

#include "cuda/common/layer.h"
#include "ops/convlstm.h"

namespace pdb::cuda {

struct AtenOptions {
  bool has_kernels;  // see device.h
  bool allow_tf32;   // in float32 convolutions
  Stream stream;     // the current stream
};

// The ops of ops/convlstm.cpp, for checked arguments and a batch that is not empty. With Save::gates_and_cells
// `reserve` holds (T, N, 4, C, H, W) activations, then (T, N, C, H, W) cell states, the same on every path.
ForwardResult aten_forward(const Layer& layer, const Inputs& inputs, Save save, const AtenOptions& options);

struct Cotangents {
  const OptionalTensor &output, &c_n;
};

BackwardResult aten_backward(const Layer& layer, const Inputs& inputs, const Cotangents& cotangents,
                             const at::Tensor& output, const at::Tensor& reserve,
                             const std::array<bool, kGradients>& needs, const AtenOptions& options);

}  // namespace pdb::cuda
