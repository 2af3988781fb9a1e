// What the CPU and the CUDA implementation of convgru share: the types of arguments and results, and the checks.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <tuple>

#include "gru_arguments.h"
#include "ops/check_layer.h"

namespace pdb {

// Positions in `needs` and in the result of convgru_backward.
enum GruGradient { kGruX, kGruWeightX, kGruWeightH, kGruBias, kGruH0, kGruGradients };

using GruForwardResult = std::tuple<at::Tensor, at::Tensor>;  // output, gates
using GruBackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using GruGradients = std::array<at::Tensor, kGruGradients>;  // in the order of GruGradient

// The arguments that convgru and convgru_backward have in common.
struct GruInputs {
  const at::Tensor& x;         // (T, N, Cin, H, W)
  const at::Tensor& weight_x;  // (3C, Cin, k, k)
  const at::Tensor& weight_h;  // (3C, C, k, k)
  const OptionalTensor& h_0;   // (N, C, H, W)
  int64_t dilation;
  bool reverse;
};

// Throws an error that names the argument and its expected and actual shape. Returns the layer with its dilation
// bounded. After this check no implementation can read outside a tensor.
Layer check_gru_inputs(const char* op, const GruInputs& inputs, const OptionalTensor& bias = std::nullopt);

// Checks the additional arguments of convgru_backward, which must have the shapes that convgru returns.
void check_gru_saved(const Layer& layer, const GruInputs& inputs, const at::Tensor& output, const at::Tensor& gates,
                     const OptionalTensor& grad_output);

// Elements of the gates that convgru saves for convgru_backward, in x's dtype.
inline int64_t gru_gates_size(const Layer& layer, bool save) { return save ? kGruGateCount * layer.sequence() : 0; }

// The gradients that are needed, uninitialised (zeros with an empty batch, where no kernel runs); the others have no
// elements.
inline GruGradients make_gru_gradients(const Layer& layer, const GruInputs& inputs,
                                       const std::array<bool, kGruGradients>& needs) {
  const auto make = [&](GruGradient which, at::IntArrayRef shape) {
    if (!needs[which]) return at::empty({0}, inputs.x.options());
    return layer.batch ? at::empty(shape, inputs.x.options()) : at::zeros(shape, inputs.x.options());
  };
  return {make(kGruX, inputs.x.sizes()), make(kGruWeightX, inputs.weight_x.sizes()),
          make(kGruWeightH, inputs.weight_h.sizes()), make(kGruBias, {kGruGateCount * layer.channels}),
          make(kGruH0, {layer.batch, layer.channels, layer.height, layer.width})};
}

inline GruBackwardResult to_result(const GruGradients& g) {
  return {g[kGruX], g[kGruWeightX], g[kGruWeightH], g[kGruBias], g[kGruH0]};
}

}  // namespace pdb
