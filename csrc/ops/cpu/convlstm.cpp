// convlstm and convlstm_backward on CPU tensors: allocation. Schemas: ops/convlstm.cpp; the time loop: cpu/layer.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/cpu/tensors.h"
#include "ops/gradients.h"

namespace pdb::cpu {
namespace {

template <class T>
PeepholeWeights<T> read_peephole(const OptionalTensor& p) {
  if (!p) return {};
  return {p->const_data_ptr<T>(), p->stride(0), p->stride(1), p->stride(2), p->stride(3)};
}

ForwardResult convlstm(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                       const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                       const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, int64_t save) {
  const Layer layer =
      check_inputs("convlstm", {x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current});
  const Save saved = check_save(save);
  const at::Tensor output =
      at::empty({layer.steps, layer.batch, layer.channels, layer.height, layer.width}, x.options());
  const at::Tensor c_n = at::empty({layer.batch, layer.channels, layer.height, layer.width}, x.options());
  const at::Tensor reserve = at::empty({reserve_size(saved, layer.sequence(), x.scalar_type())}, x.options());
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
  const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm", [&] {
    using T = scalar_t;
    const auto [gates, cells] = split_reserve<T>(saved, layer, write<T>(reserve));
    const ForwardTensors<T> tensors{read_frames<T>(x),
                                    read<T>(weight_x_),
                                    read<T>(weight_h_),
                                    read<T>(bias_),
                                    read_peephole<T>(peephole),
                                    read<T>(h_0_),
                                    read<T>(c_0_),
                                    write<T>(output),
                                    write<T>(c_n),
                                    gates,
                                    cells};
    forward(layer, tensors, torch_threads());
    note("convlstm", layer, kGateCount);
  });
  return {output, c_n, reserve};
}

BackwardResult convlstm_backward(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n, const at::Tensor& x,
                                 const at::Tensor& weight_x, const at::Tensor& weight_h, const OptionalTensor& bias,
                                 const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                 const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                                 bool peephole_current, std::array<bool, kGradients> needs) {
  const Inputs inputs{x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current};
  const Layer layer = check_inputs("convlstm_backward", inputs);
  const Save save = check_saved(layer, inputs, output, reserve, grad_output, grad_c_n);
  const Gradients grads = make_gradients(layer, inputs, needs);
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(), output_ = output.contiguous();
  const OptionalTensor grad_c_n_ = contiguous(grad_c_n), h_0_ = contiguous(h_0), c_0_ = contiguous(c_0),
                       bias_ = contiguous(bias);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm_backward", [&] {
    using T = scalar_t;
    const auto [gates, cells] = split_reserve<const T>(save, layer, reserve.const_data_ptr<T>());
    const BackwardTensors<T> tensors{read_frames<T>(grad_output),
                                     read<T>(grad_c_n_),
                                     read_frames<T>(x),
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
                                     write<T>(grads[kC0])};
    backward(layer, tensors, torch_threads());
    note("convlstm_backward", layer, kGateCount);
  });
  return to_result(grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) {
  m.impl("convlstm", convlstm);
  m.impl("convlstm_backward", convlstm_backward);
}

}  // namespace pdb::cpu
