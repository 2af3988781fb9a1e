// A ConvGRU layer whose convolutions PyTorch (cuDNN) computes, as aten_layer.h.
#pragma once

#include "ops/convgru.h"
#include "ops/cuda/aten_layer.h"

namespace pdb::cuda {

// The ops of ops/convgru.cpp, for checked arguments and a batch that is not empty. The gates are (T, N, 3, C, H, W)
// activations, the same on every path.
GruForwardResult aten_gru_forward(const Layer& layer, const GruInputs& inputs, const OptionalTensor& bias, bool save,
                                  const AtenOptions& options);

GruBackwardResult aten_gru_backward(const Layer& layer, const GruInputs& inputs, const OptionalTensor& grad_output,
                                    const at::Tensor& output, const at::Tensor& gates,
                                    const std::array<bool, kGruGradients>& needs, const AtenOptions& options);

}  // namespace pdb::cuda
