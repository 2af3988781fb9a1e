// convlstm and its backward on CPU tensors: allocation. Equations and schemas: convlstm.cpp; the time loop: cpu/sequence.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "ops/calls.h"
#include "cpu/kernels/kernels.h"
#include "cpu/plan.h"
#include "ops/cpu/tensors.h"

namespace pdb::cpu {
namespace {

Layer make_layer(const Sizes& s, bool reverse, bool peephole_current) {
  return {s.steps, s.batch, s.in_channels, s.channels, s.height, s.width, s.kernel_size, s.dilation, reverse, peephole_current};
}

void note(const char* op, const Layer& layer) {
  if (layer.batch > 0) record_call({op, "cpu", kernels<float>().name, use_winograd(layer) ? "winograd" : "direct", 1, false});
}

template <class T>
PeepholeWeights<T> read_peephole(const OptionalTensor& p) {
  if (!p) return {};
  return {p->const_data_ptr<T>(), p->stride(0), p->stride(1), p->stride(2), p->stride(3)};
}

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, int64_t save) {
  const Sizes s = check_inputs("convlstm", {x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation});
  const Save saved = check_save(save);
  const at::Tensor output = at::empty({s.steps, s.batch, s.channels, s.height, s.width}, x.options());
  const at::Tensor c_n = at::empty({s.batch, s.channels, s.height, s.width}, x.options());
  const at::Tensor reserve = at::empty({reserve_size(saved, s.sequence(), x.scalar_type())}, x.options());
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
  const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm", [&] {
    using T = scalar_t;
    const auto [gates, cells] = split_reserve<T>(saved, s, write<T>(reserve));
    const ForwardTensors<T> tensors{
        read_frames<T>(x), read<T>(weight_x_), read<T>(weight_h_), read<T>(bias_), read_peephole<T>(peephole),
        read<T>(h_0_), read<T>(c_0_), write<T>(output), write<T>(c_n), gates, cells};
    const Layer layer = make_layer(s, reverse, peephole_current);
    forward(layer, tensors, torch_threads());
    note("convlstm", layer);
  });
  return {output, c_n, reserve};
}

BackwardResult convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                                 const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                                 const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                                 bool peephole_current, std::array<bool, kGradients> needs) {
  const Inputs inputs{x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation};
  const Sizes s = check_inputs("convlstm_backward", inputs);
  const Save save = check_saved(s, inputs, output, reserve, grad_output, grad_c_n);
  const auto grad = [&](Gradient which, at::IntArrayRef shape) {
    if (!needs[which]) return at::empty({0}, x.options());
    return s.batch ? at::empty(shape, x.options()) : at::zeros(shape, x.options());
  };
  const std::array<int64_t, 4> state{s.batch, s.channels, s.height, s.width};
  const at::Tensor grad_x = grad(kX, x.sizes()), grad_weight_x = grad(kWeightX, weight_x.sizes()),
                   grad_weight_h = grad(kWeightH, weight_h.sizes()), grad_bias = grad(kBias, {4 * s.channels}),
                   grad_peephole = grad(kPeephole, {3, s.channels, s.height, s.width}), grad_h_0 = grad(kH0, state),
                   grad_c_0 = grad(kC0, state);
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(), output_ = output.contiguous();
  const OptionalTensor grad_c_n_ = contiguous(grad_c_n), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0),
                       bias_ = contiguous(bias);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm_backward", [&] {
    using T = scalar_t;
    const auto [gates, cells] = split_reserve<const T>(save, s, reserve.const_data_ptr<T>());
    const BackwardTensors<T> tensors{
        read_frames<T>(grad_output), read<T>(grad_c_n_), read_frames<T>(x), read<T>(weight_x_), read<T>(weight_h_),
        read<T>(bias_), read_peephole<T>(peephole), read<T>(h_0_), read<T>(c_0_), read<T>(output_), gates, cells,
        write<T>(grad_x), write<T>(grad_weight_x), write<T>(grad_weight_h), write<T>(grad_bias),
        write<T>(grad_peephole), write<T>(grad_h_0), write<T>(grad_c_0)};
    const Layer layer = make_layer(s, reverse, peephole_current);
    backward(layer, tensors, torch_threads());
    note("convlstm_backward", layer);
  });
  return {grad_x, grad_weight_x, grad_weight_h, grad_bias, grad_peephole, grad_h_0, grad_c_0};
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb::cpu
