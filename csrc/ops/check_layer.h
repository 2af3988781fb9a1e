// The checks that the ops of a layer share. Errors name the argument and its expected and actual shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "layer_arguments.h"

namespace pdb {

using OptionalTensor = std::optional<at::Tensor>;

// A strided tensor of this shape on the device of x; in check_like_x also of its dtype.
void check_tensor(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                  const at::Tensor& x);
void check_like_x(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                  const at::Tensor& x);
void check_optional(const char* op, const char* name, const OptionalTensor& tensor, at::IntArrayRef shape,
                    const at::Tensor& x);

// What every layer has: x (T, N, Cin, H, W), weights (gates * C, Cin, k, k) and (gates * C, C, k, k), bias (gates * C),
// h_0 (N, C, H, W). Returns the layer with its dilation bounded.
Layer check_layer(const char* op, int64_t gates, const at::Tensor& x, const at::Tensor& weight_x,
                  const at::Tensor& weight_h, const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation,
                  bool reverse);

}  // namespace pdb
