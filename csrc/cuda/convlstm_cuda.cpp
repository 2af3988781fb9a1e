// The ops on CUDA tensors: device guard, current stream, allocation. Equations and schemas: convlstm.cpp; the time loop
// and its kernels: sequence.h. Needs of CUDA only c10 and the runtime's headers.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../convlstm.h"
#include "tensors.h"

namespace pdb::cuda {
namespace {

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, bool save) {
  const Sizes s = check_inputs("convlstm", {x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation});
  const c10::cuda::CUDAGuard guard(x.device());
  const Layer layer = make_layer(s, x.scalar_type(), reverse, peephole_current);
  const auto options = x.options();
  const auto accumulation = options.dtype(accumulation_dtype(x.scalar_type()));
  const at::Tensor output = at::empty({s.steps, s.batch, s.channels, s.height, s.width}, options);
  const at::Tensor c_n = at::empty({s.batch, s.channels, s.height, s.width}, options);
  const at::Tensor reserve = at::empty({save ? s.reserve() : 0}, accumulation);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    if (s.batch == 0) return;
    const at::Tensor workspace = at::empty({forward_workspace<T>(layer, save)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
    const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0);
    A* const gates = write<A>(reserve);
    const ForwardTensors<T> tensors{
        read<T>(x_), read<T>(weight_x_), read<T>(weight_h_), read<T>(bias_), read_peephole<T>(peephole), read<T>(h_0_),
        read<T>(c_0_), write<T>(output), write<T>(c_n), gates, save ? gates + s.reserve() / 5 * 4 : nullptr,
        write<A>(workspace)};
    const auto stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(static_cast<cudaError_t>(forward(layer, tensors, stream.stream())));
  });
  return {output, c_n, reserve};
}

BackwardResult convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                                 const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& peephole,
                                 const OptionalTensor& h_0, const OptionalTensor& c_0, const at::Tensor& output,
                                 const at::Tensor& reserve, int64_t dilation, bool reverse, bool peephole_current,
                                 std::array<bool, 7> needs) {
  const Inputs inputs{x, weight_x, weight_h, std::nullopt, peephole, h_0, c_0, dilation};
  const Sizes s = check_inputs("convlstm_backward", inputs);
  check_saved(s, inputs, output, reserve, grad_output, grad_c_n);
  const c10::cuda::CUDAGuard guard(x.device());
  const Layer layer = make_layer(s, x.scalar_type(), reverse, peephole_current);
  const auto accumulation = x.options().dtype(accumulation_dtype(x.scalar_type()));
  const auto grad = [&](Gradient which, at::IntArrayRef shape) {
    if (!needs[which]) return at::empty({0}, x.options());
    return s.batch ? at::empty(shape, x.options()) : at::zeros(shape, x.options());
  };
  const std::array<int64_t, 4> state{s.batch, s.channels, s.height, s.width};
  const at::Tensor grad_x = grad(kX, x.sizes()), grad_weight_x = grad(kWeightX, weight_x.sizes()),
                   grad_weight_h = grad(kWeightH, weight_h.sizes()), grad_bias = grad(kBias, {4 * s.channels}),
                   grad_peephole = grad(kPeephole, {3, s.channels, s.height, s.width}), grad_h_0 = grad(kH0, state),
                   grad_c_0 = grad(kC0, state);
  dispatch(x.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    if (s.batch == 0) return;
    const at::Tensor workspace = at::empty({backward_workspace<T>(layer)}, accumulation);
    const at::Tensor x_ = x.contiguous(), weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(),
                     output_ = output.contiguous(), reserve_ = reserve.contiguous();
    const OptionalTensor grad_output_ = contiguous(grad_output), grad_c_n_ = contiguous(grad_c_n),
                         h_0_ = contiguous(h_0), c_0_ = contiguous(c_0);
    const A* const gates = read<A>(reserve_);
    const BackwardTensors<T> tensors{
        read<T>(grad_output_), read<T>(grad_c_n_), read<T>(x_), read<T>(weight_x_), read<T>(weight_h_),
        read_peephole<T>(peephole), read<T>(h_0_), read<T>(c_0_), read<T>(output_), gates, gates + s.reserve() / 5 * 4,
        write<T>(grad_x), write<T>(grad_weight_x), write<T>(grad_weight_h), write<T>(grad_bias), write<T>(grad_peephole),
        write<T>(grad_h_0), write<T>(grad_c_0), write<A>(workspace)};
    const auto stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(static_cast<cudaError_t>(backward(layer, tensors, stream.stream())));
  });
  return {grad_x, grad_weight_x, grad_weight_h, grad_bias, grad_peephole, grad_h_0, grad_c_0};
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CUDA, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb::cuda
