// What the autograd of the ops shares. It is in C++, because torch.library's registration in Python takes 50 us of a
// training step, as long as a small single step itself.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <tuple>

#include "ops/convlstm.h"

namespace pdb::autograd {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}
inline at::Tensor or_undefined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

template <class... Tensors>
bool any_requires_grad(const Tensors&... tensors) {
  const auto requires_grad = [](const OptionalTensor& tensor) { return tensor && tensor->requires_grad(); };
  return c10::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

template <class Tuple>
variable_list to_list(const Tuple& tensors) {
  return std::apply([](const auto&... tensor) { return variable_list{tensor...}; }, tensors);
}

// Which of the first `count` arguments need a gradient; is_given: whether an argument was given: else it has no edge.
template <size_t count>
std::array<bool, count> needed(const AutogradContext& context, const std::array<bool, count>& is_given) {
  std::array<bool, count> needs{};
  for (size_t i = 0, edge = 0; i < count; ++i)
    if (is_given[i]) needs[i] = context.needs_input_grad(edge++);
  return needs;
}

// The gradients of all arguments of an op: those that are needed, and undefined ones, also for its options.
template <size_t count, class Tuple>
variable_list of_arguments(const Tuple& gradients, const std::array<bool, count>& needs, size_t options) {
  variable_list result = to_list(gradients);
  for (size_t i = 0; i < count; ++i)
    if (!needs[i]) result[i] = at::Tensor();
  result.resize(count + options);
  return result;
}

// What differentiates a backward op: its gradients would be gradients of gradients. Op: its call, the name of the
// forward op and what else to say of it; a type of one name in all files, as compiled autograd knows functions by their
// names.
template <class Op>
struct OnceDifferentiable : torch::autograd::Function<OnceDifferentiable<Op>> {
  static constexpr bool is_traceable = true;

  template <class... Arguments>
  static variable_list forward(AutogradContext*, const Arguments&... arguments) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return to_list(Op::call(arguments...));
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false, Op::kName, ": double backward (a gradient of a gradient) is not supported by the native op; ",
                "use implementation=\"reference\" for it, of the layer or of pdb_ext.", Op::kName, Op::kHint);
  }
};

}  // namespace pdb::autograd
