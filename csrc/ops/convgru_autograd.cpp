// The autograd of convgru and convgru_backward.
#include <torch/library.h>

#include "ops/autograd.h"
#include "ops/convgru.h"

namespace pdb::autograd {
namespace {

struct ConvGRUOp {
  static GruForwardResult call(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                               const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation, bool reverse,
                               bool save) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convgru", "").typed<decltype(call)>();
    return op.call(x, weight_x, weight_h, bias, h_0, dilation, reverse, save);
  }
};

struct ConvGRUBackwardOp {
  static constexpr const char* kName = "convgru";
  static constexpr const char* kHint = "";
  static GruBackwardResult call(const OptionalTensor& grad_output, const at::Tensor& x, const at::Tensor& weight_x,
                                const at::Tensor& weight_h, const OptionalTensor& h_0, const at::Tensor& output,
                                const at::Tensor& gates, int64_t dilation, bool reverse,
                                std::array<bool, kGruGradients> needs) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convgru_backward", "").typed<decltype(call)>();
    return op.call(grad_output, x, weight_x, weight_h, h_0, output, gates, dilation, reverse, needs);
  }
};

struct ConvGRU : torch::autograd::Function<ConvGRU> {
  static constexpr bool is_traceable = true;  // all that backward needs is in the context

  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight_x,
                               const at::Tensor& weight_h, const OptionalTensor& bias, const OptionalTensor& h_0,
                               int64_t dilation, bool reverse, bool save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [output, gates] = ConvGRUOp::call(x, weight_x, weight_h, bias, h_0, dilation, reverse, save);
    context->set_materialize_grads(false);  // that gates has no gradient: as convlstm's reserve
    context->save_for_backward({x, weight_x, weight_h, or_undefined(h_0), output, gates});
    auto& options = context->saved_data;
    options["dilation"] = dilation;
    options["reverse"] = reverse;
    options["has_bias"] = bias.has_value();
    options["is_saved"] = save;
    return {output, gates};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto& options = context->saved_data;
    TORCH_CHECK(options["is_saved"].toBool(),
                "convgru: the op was called with save=False; call it with save=True to differentiate it");
    const variable_list saved = context->get_saved_variables();
    const auto needs =
        needed<kGruGradients>(*context, {true, true, true, options["has_bias"].toBool(), saved[3].defined()});
    const GruBackwardResult result =
        ConvGRUBackwardOp::call(optional(grads[0]), saved[0], saved[1], saved[2], optional(saved[3]), saved[4],
                                saved[5], options["dilation"].toInt(), options["reverse"].toBool(), needs);
    return of_arguments(result, needs, /*options=*/3);
  }
};

GruForwardResult convgru(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                         const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation, bool reverse,
                         bool save) {
  if (!any_requires_grad(x, weight_x, weight_h, bias, h_0)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ConvGRUOp::call(x, weight_x, weight_h, bias, h_0, dilation, reverse, save);
  }
  const variable_list result = ConvGRU::apply(x, weight_x, weight_h, bias, h_0, dilation, reverse, save);
  return {result[0], result[1]};
}

GruBackwardResult convgru_backward(const OptionalTensor& grad_output, const at::Tensor& x, const at::Tensor& weight_x,
                                   const at::Tensor& weight_h, const OptionalTensor& h_0, const at::Tensor& output,
                                   const at::Tensor& gates, int64_t dilation, bool reverse,
                                   std::array<bool, kGruGradients> needs) {
  if (!any_requires_grad(grad_output, x, weight_x, weight_h, h_0, output)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ConvGRUBackwardOp::call(grad_output, x, weight_x, weight_h, h_0, output, gates, dilation, reverse, needs);
  }
  const variable_list g = OnceDifferentiable<ConvGRUBackwardOp>::apply(grad_output, x, weight_x, weight_h, h_0, output,
                                                                       gates, dilation, reverse, needs);
  return {g[kGruX], g[kGruWeightX], g[kGruWeightH], g[kGruBias], g[kGruH0]};
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, Autograd, m) {
  m.impl("convgru", convgru);
  m.impl("convgru_backward", convgru_backward);
}

}  // namespace pdb::autograd
