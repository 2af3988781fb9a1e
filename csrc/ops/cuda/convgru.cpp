// The ConvGRU's ops on CUDA tensors, as convlstm.cpp. Schemas: ops/convgru.cpp.
#include "ops/convgru.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/choose_path.h"
#include "cuda/common/gru.h"
#include "cuda/step/kernel_set.h"
#include "ops/calls.h"
#include "ops/cuda/aten_gru.h"
#include "ops/cuda/built_for.h"
#include "ops/cuda/tensors.h"
#include "ops/cuda/weights.h"

namespace pdb::cuda {
namespace {

// How one call is computed.
struct Plan {
  Device device;
  Layer layer;
  CudaPath path;

  Plan(const Layer& given, at::ScalarType dtype, Pass pass)
      : device(current_device()),
        layer(on_device(given, dtype, device)),
        path(choose_gru_path(layer, static_cast<int64_t>(c10::elementSize(dtype)), device, pass)) {
    const std::optional<CudaPath> forced = path_from_environment();
    if (forced && *forced != path && layer.batch > 0) {
      check_kernels(device, path_name(*forced));
      TORCH_CHECK(false, "PDB_EXT_CUDA_PATH=", path_name(*forced),
                  ": a ConvGRU has no such path; unset the variable, or let it name step or aten");
    }
    warn_without_kernels(device);
  }

  // tensor_cores: whether the steps are computed on them.
  void note(const char* op, Pass pass, bool tensor_cores) const {
    const bool on = path == CudaPath::step ? tensor_cores : layer.tensor_cores;
    record_call({op, "cuda", path_name(path), gru_kernel_name(path, pass, on, device), 1, on});
  }

  AtenOptions aten_options() const {
    return {device.has_kernels(), allow_tf32(), c10::cuda::getCurrentCUDAStream().stream()};
  }
};

GruForwardResult convgru(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                         const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation, bool reverse,
                         bool save) {
  const GruInputs inputs{x, weight_x, weight_h, h_0, dilation, reverse};
  const Layer given = check_gru_inputs("convgru", inputs, bias);
  dispatch(x.scalar_type(), [](auto) {});  // refuses other dtypes
  const c10::cuda::CUDAGuard guard(x.device());
  const Plan plan(given, x.scalar_type(), save ? Pass::training : Pass::forward);
  const Layer& layer = plan.layer;
  if (plan.path == CudaPath::aten && layer.batch > 0) {
    GruForwardResult result = aten_gru_forward(layer, inputs, bias, save, plan.aten_options());
    plan.note("convgru", Pass::forward, false);
    return result;
  }
  const auto accumulation = x.options().dtype(accumulation_dtype(x.scalar_type()));
  const at::Tensor output =
      at::empty({layer.steps, layer.batch, layer.channels, layer.height, layer.width}, x.options());
  const at::Tensor gates = at::empty({gru_gates_size(layer, save)}, x.options());
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    if (layer.batch == 0) return;
    const bool on_tensor_cores = Path<T>(layer).on_tensor_cores();
    const int64_t kind = packed_kind(x.scalar_type(), /*persistent=*/false, on_tensor_cores);
    const WeightRoom packed({weight_x, weight_h}, kind, gru_forward_packed<T>(layer), accumulation, !save);
    const at::Tensor workspace = at::empty({gru_forward_workspace<T>(layer)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
    const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0);
    const GruForwardTensors<T> tensors{{read<T>(x_), read<T>(weight_x_), read<T>(weight_h_), read<T>(bias_),
                                        read<T>(h_0_), write<T>(output), write<T>(gates)},
                                       write<A>(packed.data()),
                                       packed.is_packed(),
                                       write<A>(workspace)};
    check_launch(gru_forward(layer, tensors, c10::cuda::getCurrentCUDAStream().stream()));
    packed.keep();
    plan.note("convgru", Pass::forward, on_tensor_cores);
  });
  return {output, gates};
}

GruBackwardResult convgru_backward(const OptionalTensor& grad_output, const at::Tensor& x, const at::Tensor& weight_x,
                                   const at::Tensor& weight_h, const OptionalTensor& h_0, const at::Tensor& output,
                                   const at::Tensor& gates, int64_t dilation, bool reverse,
                                   std::array<bool, kGruGradients> needs) {
  const GruInputs inputs{x, weight_x, weight_h, h_0, dilation, reverse};
  const Layer given = check_gru_inputs("convgru_backward", inputs);
  check_gru_saved(given, inputs, output, gates, grad_output);
  const c10::cuda::CUDAGuard guard(x.device());
  const Plan plan(given, x.scalar_type(), Pass::backward);
  const Layer& layer = plan.layer;
  if (plan.path == CudaPath::aten && layer.batch > 0) {
    GruBackwardResult result = aten_gru_backward(layer, inputs, grad_output, output, gates, needs, plan.aten_options());
    plan.note("convgru_backward", Pass::backward, false);
    return result;
  }
  const auto accumulation = x.options().dtype(accumulation_dtype(x.scalar_type()));
  const GruGradients grads = make_gru_gradients(layer, inputs, needs);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    if (layer.batch == 0) return;
    const at::Tensor workspace = at::empty({gru_backward_workspace<T>(layer)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(),
                     output_ = output.contiguous();
    const OptionalTensor grad_output_ = contiguous(grad_output), h_0_ = contiguous(h_0);
    const GruBackwardTensors<T> tensors{
        {read<T>(grad_output_), read<T>(x_), read<T>(weight_x_), read<T>(weight_h_), read<T>(h_0_), read<T>(output_),
         read<T>(gates), write<T>(grads[kGruX]), write<T>(grads[kGruWeightX]), write<T>(grads[kGruWeightH]),
         write<T>(grads[kGruBias]), write<T>(grads[kGruH0])},
        write<accumulation_t<T>>(workspace)};
    check_launch(gru_backward(layer, tensors, c10::cuda::getCurrentCUDAStream().stream()));
    plan.note("convgru_backward", Pass::backward, Path<T>(layer).on_tensor_cores());
  });
  return to_result(grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CUDA, m) {
  m.impl("convgru", convgru);
  m.impl("convgru_backward", convgru_backward);
}

}  // namespace pdb::cuda
