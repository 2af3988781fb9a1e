// The ops on CUDA tensors: device guard, current stream, allocation. Schemas: ops/convlstm.cpp; the choice of an
// implementation: cuda/choose_path.h. Of CUDA this needs only c10 and the runtime's headers.
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/choose_path.h"
#include "cuda/step/kernel_set.h"
#include "ops/calls.h"
#include "ops/convlstm.h"
#include "ops/cuda/aten_layer.h"
#include "ops/cuda/built_for.h"
#include "ops/cuda/tensors.h"
#include "ops/cuda/weights.h"
#include "ops/gradients.h"

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
        path(choose_path({&layer, 1, 1}, static_cast<int64_t>(c10::elementSize(dtype)), device, pass)) {
    layer.persistent = path == CudaPath::persistent;
    check_forced(dtype);
    warn_without_kernels(device);
  }

  // An error if a path is forced but was not taken.
  void check_forced(at::ScalarType dtype) const {
    const std::optional<CudaPath> forced = path_from_environment();
    if (!forced || *forced == path || layer.batch == 0) return;
    const char* const name = path_name(*forced);
    check_kernels(device, name);
    TORCH_CHECK(false, "PDB_EXT_CUDA_PATH=", name, ": this layer (N=", layer.batch, ", Cin=", layer.in_channels,
                ", C=", layer.channels, ", ", layer.height, "x", layer.width, ", k=", layer.kernel,
                ", dilation=", layer.dilation, ", ", dtype,
                ") does not fit on the chip, all of its tiles at once with the recurrent weight in the shared ",
                "memory of each; unset the variable, or let it name step or aten");
  }

  // tensor_cores: whether the steps are computed on them.
  void note(const char* op, Pass pass, bool tensor_cores) const {
    const bool on = path == CudaPath::step ? tensor_cores : layer.tensor_cores;
    record_call({op, "cuda", path_name(path), kernel_name(path, pass, on, device), 1, on});
  }

  AtenOptions aten_options() const {
    return {device.has_kernels(), allow_tf32(), c10::cuda::getCurrentCUDAStream().stream()};
  }
};

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current,
                       int64_t save_) {
  const Inputs inputs{x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current};
  const Layer given = check_inputs("convlstm", inputs);
  dispatch(x.scalar_type(), [](auto) {});  // refuses other dtypes
  const Save save = check_save(save_);
  const c10::cuda::CUDAGuard guard(x.device());
  const Plan plan(given, x.scalar_type(), save == Save::nothing ? Pass::forward : Pass::training);
  const Layer& layer = plan.layer;
  if (plan.path == CudaPath::aten && layer.batch > 0) {
    ForwardResult result = aten_forward(layer, inputs, save, plan.aten_options());
    plan.note("convlstm", Pass::forward, false);
    return result;
  }
  const auto options = x.options();
  const auto accumulation = options.dtype(accumulation_dtype(x.scalar_type()));
  const at::Tensor output = at::empty({layer.steps, layer.batch, layer.channels, layer.height, layer.width}, options);
  const at::Tensor c_n = at::empty({layer.batch, layer.channels, layer.height, layer.width}, options);
  const at::Tensor reserve = at::empty({reserve_size(save, layer.sequence(), x.scalar_type())}, accumulation);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    if (layer.batch == 0) return;
    const bool on_tensor_cores = Path<T>(layer).on_tensor_cores();
    const int64_t kind =
        packed_kind(x.scalar_type(), layer.persistent, layer.persistent ? layer.tensor_cores : on_tensor_cores);
    const WeightRoom packed({weight_x, weight_h}, kind, forward_packed<T>(layer), accumulation, save == Save::nothing);
    const at::Tensor workspace = at::empty({forward_workspace<T>(layer, save != Save::nothing)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
    const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0);
    const auto [gates, cells] = split_reserve<T>(save, layer, write<A>(reserve));
    const ForwardTensors<T> tensors{
        read<T>(x_),   read<T>(weight_x_),      read<T>(weight_h_), read<T>(bias_),     read_peephole<T>(peephole),
        read<T>(h_0_), read<T>(c_0_),           write<T>(output),   write<T>(c_n),      gates,
        cells,         write<A>(packed.data()), packed.is_packed(), write<A>(workspace)};
    const auto stream = c10::cuda::getCurrentCUDAStream();
    check_launch(forward(layer, tensors, stream.stream()));
    packed.keep();
    plan.note("convlstm", Pass::forward, on_tensor_cores);
  });
  return {output, c_n, reserve};
}

BackwardResult convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                                 const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                                 const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                                 bool peephole_current, std::array<bool, kGradients> needs) {
  const Inputs inputs{x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current};
  const Layer given = check_inputs("convlstm_backward", inputs);
  const Save save = check_saved(given, inputs, output, reserve, grad_output, grad_c_n);
  const c10::cuda::CUDAGuard guard(x.device());
  const Plan plan(given, x.scalar_type(), Pass::backward);
  const Layer& layer = plan.layer;
  if (plan.path == CudaPath::aten && layer.batch > 0) {
    BackwardResult result =
        aten_backward(layer, inputs, {grad_output, grad_c_n}, output, reserve, needs, plan.aten_options());
    plan.note("convlstm_backward", Pass::backward, false);
    return result;
  }
  const auto accumulation = x.options().dtype(accumulation_dtype(x.scalar_type()));
  const Gradients grads = make_gradients(layer, inputs, needs);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    if (layer.batch == 0) return;
    const at::Tensor workspace = at::empty({backward_workspace<T>(layer, save == Save::gates_and_cells)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(),
                     output_ = output.contiguous(), reserve_ = reserve.contiguous();
    const OptionalTensor grad_output_ = contiguous(grad_output), grad_c_n_ = contiguous(grad_c_n),
                         h_0_ = contiguous(h_0), c_0_ = contiguous(c_0), bias_ = contiguous(bias);
    const auto [gates, cells] = split_reserve<const T>(save, layer, read<A>(reserve_));
    const BackwardTensors<T> tensors{read<T>(grad_output_),
                                     read<T>(grad_c_n_),
                                     read<T>(x_),
                                     read<T>(weight_x_),
                                     read<T>(weight_h_),
                                     read<T>(bias_),
                                     read_peephole<T>(peephole),
                                     read<T>(h_0_),
                                     read<T>(c_0_),
                                     read<T>(output_),
                                     gates,
                                     cells,
                                     write<T>(grads[kX]),
                                     write<T>(grads[kWeightX]),
                                     write<T>(grads[kWeightH]),
                                     write<T>(grads[kBias]),
                                     write<T>(grads[kPeephole]),
                                     write<T>(grads[kH0]),
                                     write<T>(grads[kC0]),
                                     nullptr,
                                     write<A>(workspace)};
    const auto stream = c10::cuda::getCurrentCUDAStream();
    check_launch(backward(layer, tensors, stream.stream()));
    plan.note("convlstm_backward", Pass::backward, Path<T>(layer).on_tensor_cores());
  });
  return to_result(grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CUDA, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb::cuda
