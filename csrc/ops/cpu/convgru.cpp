// convgru and convgru_backward on CPU tensors: allocation. Schemas: ops/convgru.cpp; the time loop: cpu/gru_layer.h.
#include "ops/convgru.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/gru_layer.h"
#include "ops/cpu/tensors.h"

namespace pdb::cpu {
namespace {

GruForwardResult convgru(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                         const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation, bool reverse,
                         bool save) {
  const Layer layer = check_gru_inputs("convgru", {x, weight_x, weight_h, h_0, dilation, reverse}, bias);
  const at::Tensor output =
      at::empty({layer.steps, layer.batch, layer.channels, layer.height, layer.width}, x.options());
  const at::Tensor gates = at::empty({gru_gates_size(layer, save)}, x.options());
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous();
  const OptionalTensor bias_ = contiguous(bias), h_0_ = contiguous(h_0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convgru", [&] {
    using T = scalar_t;
    const GruForwardTensors<T> tensors{read_frames<T>(x), read<T>(weight_x_), read<T>(weight_h_), read<T>(bias_),
                                       read<T>(h_0_),     write<T>(output),   write<T>(gates)};
    gru_forward(layer, tensors, torch_threads());
    note("convgru", layer, kGruGateCount);
  });
  return {output, gates};
}

GruBackwardResult convgru_backward(const OptionalTensor& grad_output, const at::Tensor& x, const at::Tensor& weight_x,
                                   const at::Tensor& weight_h, const OptionalTensor& h_0, const at::Tensor& output,
                                   const at::Tensor& gates, int64_t dilation, bool reverse,
                                   std::array<bool, kGruGradients> needs) {
  const GruInputs inputs{x, weight_x, weight_h, h_0, dilation, reverse};
  const Layer layer = check_gru_inputs("convgru_backward", inputs);
  check_gru_saved(layer, inputs, output, gates, grad_output);
  const GruGradients grads = make_gru_gradients(layer, inputs, needs);
  const at::Tensor weight_x_ = weight_x.contiguous(), weight_h_ = weight_h.contiguous(), output_ = output.contiguous();
  const OptionalTensor h_0_ = contiguous(h_0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convgru_backward", [&] {
    using T = scalar_t;
    const GruBackwardTensors<T> tensors{read_frames<T>(grad_output),
                                        read_frames<T>(x),
                                        read<T>(weight_x_),
                                        read<T>(weight_h_),
                                        read<T>(h_0_),
                                        read<T>(output_),
                                        read<T>(gates),
                                        write<T>(grads[kGruX]),
                                        write<T>(grads[kGruWeightX]),
                                        write<T>(grads[kGruWeightH]),
                                        write<T>(grads[kGruBias]),
                                        write<T>(grads[kGruH0])};
    gru_backward(layer, tensors, torch_threads());
    note("convgru_backward", layer, kGruGateCount);
  });
  return to_result(grads);
}

}  // namespace

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) {
  m.impl("convgru", convgru);
  m.impl("convgru_backward", convgru_backward);
}

}  // namespace pdb::cpu
