// The autograd of convlstm and convlstm_backward.
#include <torch/library.h>

#include "ops/autograd.h"

namespace pdb::autograd {
namespace {

struct ConvLSTMOp {
  static ForwardResult call(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                            const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                            const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current,
                            int64_t save) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convlstm", "").typed<decltype(call)>();
    return op.call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
  }
};

struct ConvLSTMBackwardOp {
  static constexpr const char* kName = "convlstm";
  static constexpr const char* kHint = "; in a model that was converted, pdb_ext.unconvert";
  static BackwardResult call(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                             const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                             const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                             const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                             bool peephole_current, std::array<bool, kGradients> needs) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convlstm_backward", "").typed<decltype(call)>();
    return op.call(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, reserve, dilation,
                   reverse, peephole_current, needs);
  }
};

struct ConvLSTM : torch::autograd::Function<ConvLSTM> {
  static constexpr bool is_traceable = true;  // all that backward needs is in the context

  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight_x,
                               const at::Tensor& weight_h, const OptionalTensor& bias, const OptionalTensor& peephole,
                               const OptionalTensor& h_0, const OptionalTensor& c_0, int64_t dilation, bool reverse,
                               bool peephole_current, int64_t save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [output, c_n, reserve] =
        ConvLSTMOp::call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
    // The reserve has no gradient, but is not marked so: compiled autograd refuses functions that mark outputs.
    context->set_materialize_grads(false);
    context->save_for_backward({x, weight_x, weight_h, or_undefined(bias), or_undefined(peephole), or_undefined(h_0),
                                or_undefined(c_0), output, reserve});
    auto& options = context->saved_data;
    options["dilation"] = dilation;
    options["reverse"] = reverse;
    options["peephole_current"] = peephole_current;
    options["is_saved"] = save != 0;
    return {output, c_n, reserve};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto& options = context->saved_data;
    TORCH_CHECK(options["is_saved"].toBool(),
                "convlstm: the op was called with save=0; call it with save=1 or 2 to differentiate it");
    const variable_list saved = context->get_saved_variables();
    std::array<bool, kGradients> is_given;
    for (size_t i = 0; i < kGradients; ++i) is_given[i] = saved[i].defined();
    const auto needs = needed(*context, is_given);
    const BackwardResult result = ConvLSTMBackwardOp::call(
        optional(grads[0]), optional(grads[1]), saved[0], saved[1], saved[2], optional(saved[3]), optional(saved[4]),
        optional(saved[5]), optional(saved[6]), saved[7], saved[8], options["dilation"].toInt(),
        options["reverse"].toBool(), options["peephole_current"].toBool(), needs);
    return of_arguments(result, needs, /*options=*/4);
  }
};

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, int64_t save) {
  if (!any_requires_grad(x, weight_x, weight_h, bias, peephole, h_0, c_0)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ConvLSTMOp::call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
  }
  const variable_list result =
      ConvLSTM::apply(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
  return {result[0], result[1], result[2]};
}

BackwardResult convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                                 const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                                 const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                                 bool peephole_current, std::array<bool, kGradients> needs) {
  if (!any_requires_grad(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ConvLSTMBackwardOp::call(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output,
                                    reserve, dilation, reverse, peephole_current, needs);
  }
  const variable_list g =
      OnceDifferentiable<ConvLSTMBackwardOp>::apply(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0,
                                                    c_0, output, reserve, dilation, reverse, peephole_current, needs);
  return {g[kX], g[kWeightX], g[kWeightH], g[kBias], g[kPeephole], g[kH0], g[kC0]};
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, Autograd, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb::autograd
