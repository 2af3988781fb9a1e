// The autograd of convlstm. In C++, because torch.library's registration in Python takes 50 us of a training step, as
// long as a small single step itself.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/convlstm.h"

namespace pdb {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

OptionalTensor optional(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }
at::Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

template <class... Tensors>
bool any_requires_grad(const Tensors&... tensors) {
  const auto requires_grad = [](const OptionalTensor& tensor) { return tensor && tensor->requires_grad(); };
  return c10::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

ForwardResult call(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                   const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                   const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, int64_t save) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convlstm", "").typed<decltype(call)>();
  return op.call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
}

BackwardResult call_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                             const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                             const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                             const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                             bool peephole_current, std::array<bool, kGradients> needs) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("pdb_ext::convlstm_backward", "").typed<decltype(call_backward)>();
  return op.call(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, reserve, dilation,
                 reverse, peephole_current, needs);
}

struct ConvLSTM : Function<ConvLSTM> {
  static constexpr bool is_traceable = true;  // all that backward needs is in the context

  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight_x,
                               const at::Tensor& weight_h, const OptionalTensor& bias, const OptionalTensor& peephole,
                               const OptionalTensor& h_0, const OptionalTensor& c_0, int64_t dilation, bool reverse,
                               bool peephole_current, int64_t save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto [output, c_n, reserve] =
        call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
    // The reserve has no gradient, but is not marked so: compiled autograd refuses functions that mark outputs.
    context->set_materialize_grads(false);
    context->save_for_backward({x, weight_x, weight_h, or_undefined(bias), or_undefined(peephole), or_undefined(h_0),
                                or_undefined(c_0), output, reserve});
    context->saved_data["dilation"] = dilation;
    context->saved_data["reverse"] = reverse;
    context->saved_data["peephole_current"] = peephole_current;
    context->saved_data["is_saved"] = save != 0;
    return {output, c_n, reserve};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto& options = context->saved_data;
    TORCH_CHECK(options["is_saved"].toBool(),
                "convlstm: the op was called with save=0; call it with save=1 or 2 to differentiate it");
    const variable_list saved = context->get_saved_variables();
    std::array<bool, kGradients> needs{};
    for (size_t i = 0, edge = 0; i < kGradients; ++i)  // an argument that was not given has no edge
      if (saved[i].defined()) needs[i] = context->needs_input_grad(edge++);
    const BackwardResult result = call_backward(
        optional(grads[0]), optional(grads[1]), saved[0], saved[1], saved[2], optional(saved[3]), optional(saved[4]),
        optional(saved[5]), optional(saved[6]), saved[7], saved[8], options["dilation"].toInt(),
        options["reverse"].toBool(), options["peephole_current"].toBool(), needs);
    variable_list of_inputs = std::apply([](const auto&... grad) { return variable_list{grad...}; }, result);
    for (size_t i = 0; i < kGradients; ++i)
      if (!needs[i]) of_inputs[i] = at::Tensor();
    of_inputs.resize(kGradients + 4);  // the options have no gradients
    return of_inputs;
  }
};

// Its gradients would be gradients of gradients.
struct ConvLSTMBackward : Function<ConvLSTMBackward> {
  static constexpr bool is_traceable = true;

  template <class... Arguments>
  static variable_list forward(AutogradContext*, const Arguments&... arguments) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return std::apply([](const auto&... grad) { return variable_list{grad...}; }, call_backward(arguments...));
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false, "convlstm: double backward (a gradient of a gradient) is not supported by the native op; ",
                "use implementation=\"reference\" for it, of the layer or of pdb_ext.convlstm");
  }
};

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, int64_t save) {
  if (!any_requires_grad(x, weight_x, weight_h, bias, peephole, h_0, c_0)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return call(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save);
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
    return call_backward(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, reserve,
                         dilation, reverse, peephole_current, needs);
  }
  const variable_list g = ConvLSTMBackward::apply(grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0,
                                                  c_0, output, reserve, dilation, reverse, peephole_current, needs);
  return {g[kX], g[kWeightX], g[kWeightH], g[kBias], g[kPeephole], g[kH0], g[kC0]};
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, Autograd, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb
