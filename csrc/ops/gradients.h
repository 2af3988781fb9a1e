// The gradients that convlstm_backward returns: their allocation, the same for every implementation.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "gate.h"
#include "ops/convlstm.h"

namespace pdb {

using Gradients = std::array<at::Tensor, kGradients>;  // in the order of Gradient

// The gradients that are needed, uninitialised; the others have no elements. With an empty batch they are zeros, since
// every sum over images is empty and no kernel runs.
inline Gradients make_gradients(const Layer& layer, const Inputs& inputs, const std::array<bool, kGradients>& needs) {
  const auto make = [&](Gradient which, at::IntArrayRef shape) {
    if (!needs[which]) return at::empty({0}, inputs.x.options());
    return layer.batch ? at::empty(shape, inputs.x.options()) : at::zeros(shape, inputs.x.options());
  };
  const std::array<int64_t, 4> state{layer.batch, layer.channels, layer.height, layer.width};
  return {make(kX, inputs.x.sizes()),
          make(kWeightX, inputs.weight_x.sizes()),
          make(kWeightH, inputs.weight_h.sizes()),
          make(kBias, {kGateCount * layer.channels}),
          make(kPeephole, {kPeepholeCount, layer.channels, layer.height, layer.width}),
          make(kH0, state),
          make(kC0, state)};
}

inline BackwardResult to_result(const Gradients& g) {
  return {g[kX], g[kWeightX], g[kWeightH], g[kBias], g[kPeephole], g[kH0], g[kC0]};
}

}  // namespace pdb
