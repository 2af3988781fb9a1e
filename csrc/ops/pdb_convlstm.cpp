// pdb_convlstm: all layers of a pyramid dilated bidirectional ConvLSTM in one op, so that a device can run them in one
// launch. This file has the schemas, and the implementation that calls convlstm layer by layer.
#include "ops/pdb_convlstm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

namespace pdb {
namespace {

using Forward = ForwardResult(const at::Tensor&, const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, int64_t, bool, bool,
                              int64_t);
using Backward = BackwardResult(const OptionalTensor&, const OptionalTensor&, const at::Tensor&, const at::Tensor&,
                                const at::Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                                const OptionalTensor&, const at::Tensor&, const at::Tensor&, int64_t, bool, bool,
                                std::array<bool, kGradients>);

template <class Function>
auto find_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

OptionalTensor part(const OptionalTensor& tensor, int64_t layer) {
  return tensor ? OptionalTensor(tensor->select(0, layer)) : std::nullopt;
}

}  // namespace

PdbLayer::PdbLayer(Parameters parameters, int64_t layer) {
  const auto at = [&](Parameter which) -> OptionalTensor {
    const at::Tensor& tensor = parameters[kLayerParameters * layer + which];
    return tensor.numel() ? OptionalTensor(tensor) : std::nullopt;
  };
  const OptionalTensor x = at(kParameterWeightX), h = at(kParameterWeightH);
  TORCH_CHECK(x && h, "pdb_convlstm: layer ", layer, " must have weight_x and weight_h");
  weight_x = *x, weight_h = *h;
  bias = at(kParameterBias), peephole = at(kParameterPeephole), h_0 = at(kParameterH0), c_0 = at(kParameterC0);
}

void check_pdb(const char* op, const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations) {
  TORCH_CHECK(!dilations.empty(), op, ": dilations must name at least one branch");
  const int64_t count = 2 * kLayerParameters * static_cast<int64_t>(dilations.size());
  TORCH_CHECK(static_cast<int64_t>(parameters.size()) == count, op, ": parameters must have ", count, " elements (",
              kLayerParameters, " of two layers for each of ", dilations.size(), " dilations), got ",
              parameters.size());
  const at::Tensor first = PdbLayer(parameters, 0).weight_h;
  for (int64_t layer = 0; layer < count / kLayerParameters; ++layer) {
    const PdbLayer p(parameters, layer);
    TORCH_CHECK(p.weight_h.sizes() == first.sizes(), op, ": weight_h must have the same shape in all layers, got ",
                first.sizes(), " and ", p.weight_h.sizes());
  }
  TORCH_CHECK(x.dim() == 5, op, ": x must have shape (T, N, Cin, H, W), got ", x.sizes());
}

PdbResult pdb_convlstm_by_layers(const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations,
                                 bool peephole_current, int64_t save) {
  static const auto convlstm = find_op<Forward>("pdb_ext::convlstm");
  check_pdb("pdb_convlstm", x, parameters, dilations);
  std::vector<at::Tensor> outputs, c_ns, reserves;
  for (size_t layer = 0; layer < 2 * dilations.size(); ++layer) {
    const PdbLayer p(parameters, layer);
    const bool reverse = layer % 2 == 1;
    auto [output, c_n, reserve] =
        convlstm.call(reverse ? outputs.back() : x, p.weight_x, p.weight_h, p.bias, p.peephole, p.h_0, p.c_0,
                      dilations[layer / 2], reverse, peephole_current, save);
    outputs.push_back(output), c_ns.push_back(c_n), reserves.push_back(reserve);
  }
  return {at::stack(outputs), at::stack(c_ns), at::stack(reserves)};
}

std::vector<at::Tensor> pdb_convlstm_backward_by_layers(const OptionalTensor& grad_output,
                                                        const OptionalTensor& grad_c_n, const at::Tensor& x,
                                                        Parameters parameters, const at::Tensor& output,
                                                        const at::Tensor& reserve, at::IntArrayRef dilations,
                                                        bool peephole_current, at::ArrayRef<bool> needs) {
  static const auto convlstm_backward = find_op<Backward>("pdb_ext::convlstm_backward");
  check_pdb("pdb_convlstm_backward", x, parameters, dilations);
  TORCH_CHECK(needs.size() == parameters.size() + 1, "pdb_convlstm_backward: needs must have ", parameters.size() + 1,
              " elements, got ", needs.size());
  std::vector<at::Tensor> grads(needs.size(), at::empty({0}, x.options()));
  for (int64_t branch = 0; branch < static_cast<int64_t>(dilations.size()); ++branch) {
    at::Tensor from_behind;
    for (int64_t layer : {2 * branch + 1, 2 * branch}) {
      const PdbLayer p(parameters, layer);
      const bool reverse = layer % 2 == 1;
      OptionalTensor grad = part(grad_output, layer);
      if (!reverse) grad = grad ? at::add(*grad, from_behind) : from_behind;
      std::array<bool, kGradients> wanted{reverse || needs[0]};
      for (int64_t i = 0; i < kLayerParameters; ++i) wanted[i + 1] = needs[1 + kLayerParameters * layer + i];
      const auto result =
          convlstm_backward.call(grad, part(grad_c_n, layer), reverse ? output.select(0, layer - 1) : x, p.weight_x,
                                 p.weight_h, p.bias, p.peephole, p.h_0, p.c_0, output.select(0, layer),
                                 reserve.select(0, layer), dilations[branch], reverse, peephole_current, wanted);
      const auto& [grad_x, weight_x, weight_h, bias, peephole, h_0, c_0] = result;
      const at::Tensor of_layer[] = {weight_x, weight_h, bias, peephole, h_0, c_0};
      for (int64_t i = 0; i < kLayerParameters; ++i) grads[1 + kLayerParameters * layer + i] = of_layer[i];
      if (reverse)
        from_behind = grad_x;
      else if (needs[0])
        grads[0] = branch == 0 ? grad_x : at::add(grads[0], grad_x);
    }
  }
  return grads;
}

namespace {

PdbResult pdb_convlstm(const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations, bool peephole_current,
                       int64_t save) {
  return pdb_convlstm_by_layers(x, parameters, dilations, peephole_current, save);
}

std::vector<at::Tensor> pdb_convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n,
                                              const at::Tensor& x, Parameters parameters, const at::Tensor& output,
                                              const at::Tensor& reserve, at::IntArrayRef dilations,
                                              bool peephole_current, const c10::List<bool>& needs) {
  const std::vector<bool> given(needs.begin(), needs.end());
  c10::SmallVector<bool, 32> wanted(given.begin(), given.end());
  return pdb_convlstm_backward_by_layers(grad_output, grad_c_n, x, parameters, output, reserve, dilations,
                                         peephole_current, wanted);
}

}  // namespace

// parameters: for each of `dilations`, the forward layer's weight_x, weight_h, bias, peephole, h_0, c_0, then the same
// of the backward layer, which reads the forward layer's output in reverse; absent ones have no elements. x as in
// convlstm. output (2B, T, N, C, H, W), c_n (2B, N, C, H, W) and reserve (2B, ...) stack those of the 2B layers; save
// applies to each layer.
// pdb_convlstm_backward: the gradients of x and of every parameter; those that `needs` leaves out have no elements.
TORCH_LIBRARY_FRAGMENT(pdb_ext, m) {
  m.def(
      "pdb_convlstm(Tensor x, Tensor[] parameters, int[] dilations, bool peephole_current, int save) -> "
      "(Tensor output, Tensor c_n, Tensor reserve)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "pdb_convlstm_backward(Tensor? grad_output, Tensor? grad_c_n, Tensor x, Tensor[] parameters, Tensor output, "
      "Tensor reserve, int[] dilations, bool peephole_current, bool[] needs) -> Tensor[]",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) {
  m.impl("pdb_convlstm", pdb_convlstm);
  m.impl("pdb_convlstm_backward", pdb_convlstm_backward);
}

}  // namespace pdb
