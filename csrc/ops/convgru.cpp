// Schemas of the ConvGRU's ops and the checks of their arguments. The implementations register themselves: ops/cpu,
// ops/cuda.
#include "ops/convgru.h"

#include <torch/library.h>

namespace pdb {

Layer check_gru_inputs(const char* op, const GruInputs& i, const OptionalTensor& bias) {
  return check_layer(op, kGruGateCount, i.x, i.weight_x, i.weight_h, bias, i.h_0, i.dilation, i.reverse);
}

void check_gru_saved(const Layer& l, const GruInputs& inputs, const at::Tensor& output, const at::Tensor& gates,
                     const OptionalTensor& grad_output) {
  const char* op = "convgru_backward";
  const std::array<int64_t, 5> sequence{l.steps, l.batch, l.channels, l.height, l.width};
  check_like_x(op, "output", output, sequence, inputs.x);
  check_optional(op, "grad_output", grad_output, sequence, inputs.x);
  TORCH_CHECK(gates.sizes() == at::IntArrayRef({gru_gates_size(l, true)}), op,
              ": gates must have the shape that convgru gives with save=True, (", gru_gates_size(l, true), "), got ",
              gates.sizes());
  check_like_x(op, "gates", gates, gates.sizes(), inputs.x);
  TORCH_CHECK(gates.is_contiguous(), op, ": gates must be contiguous, got strides ", gates.strides());
}

// convgru: all steps of one layer; the equations are in pdb_ext/convgru.py. `gates` is what convgru_backward needs
// besides `output`: with save the activations r, z and n of every step, 3*T*N*C*H*W values in x's dtype, in an order of
// the implementation's own; else nothing. The op includes the input convolution, so that an implementation may hoist or
// fuse it.
// convgru_backward: the gradients of x, weight_x, weight_h, bias and h_0; those that `needs` leaves out have no
// elements.
TORCH_LIBRARY_FRAGMENT(pdb_ext, m) {
  m.def(
      "convgru(Tensor x, Tensor weight_x, Tensor weight_h, Tensor? bias, Tensor? h_0, int dilation, bool reverse, "
      "bool save) -> (Tensor output, Tensor gates)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "convgru_backward(Tensor? grad_output, Tensor x, Tensor weight_x, Tensor weight_h, Tensor? h_0, Tensor output, "
      "Tensor gates, int dilation, bool reverse, bool[5] needs) -> (Tensor x, Tensor weight_x, Tensor weight_h, "
      "Tensor bias, Tensor h_0)",
      {at::Tag::pt2_compliant_tag});
}

}  // namespace pdb
