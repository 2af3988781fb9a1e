// A layer with convolutions by PyTorch (cuDNN): path 3, for many channels, pixels or images, and for GPUs that can run no
// kernel of ours. Everything runs on the current stream and device, in a fixed order, and can be captured in a graph.
#pragma once

#include "ops/convlstm.h"
#include "cuda/layer.h"

namespace pdb::cuda {

struct AtenOptions {
  bool has_kernels;  // see device.h
  bool allow_tf32;   // in float32 convolutions
  Stream stream;     // the current stream
};

// The ops of convlstm.cpp, on checked arguments, without an empty batch. `reserve` holds (T, N, 4, C, H, W) activations
// with Save::gates_and_cells, then (T, N, C, H, W) cell states, on every path alike.
ForwardResult aten_forward(const Layer& layer, const Inputs& inputs, Save save, const AtenOptions& options);

struct Cotangents {
  const OptionalTensor &output, &c_n;
};

BackwardResult aten_backward(const Layer& layer, const Inputs& inputs, const Cotangents& cotangents,
                             const at::Tensor& output, const at::Tensor& reserve,
                             const std::array<bool, kGradients>& needs, const AtenOptions& options);

}  // namespace pdb::cuda
