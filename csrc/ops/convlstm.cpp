// Schemas of the ops and the checks of their arguments. The implementations register themselves: ops/cpu, ops/cuda.
#include "ops/convlstm.h"

#include <torch/library.h>

namespace pdb {
Layer check_inputs(const char* op, const Inputs& i) {
  TORCH_CHECK(i.h_0.has_value() == i.c_0.has_value(), op, ": h_0 and c_0 must be given together or not at all");
  Layer l = check_layer(op, kGateCount, i.x, i.weight_x, i.weight_h, i.bias, i.h_0, i.dilation, i.reverse);
  l.peephole_current = i.peephole_current;
  check_optional(op, "peephole", i.peephole, {kPeepholeCount, l.channels, l.height, l.width}, i.x);
  check_optional(op, "c_0", i.c_0, {l.batch, l.channels, l.height, l.width}, i.x);
  return l;
}

Save check_save(int64_t save) {
  TORCH_CHECK(save >= 0 && save <= 2, "convlstm: save must be 0 (nothing), 1 (gates and cells) or 2 (cells), got ",
              save);
  return static_cast<Save>(save);
}

Save check_saved(const Layer& l, const Inputs& inputs, const at::Tensor& output, const at::Tensor& reserve,
                 const OptionalTensor& grad_output, const OptionalTensor& grad_c_n) {
  const char* op = "convlstm_backward";
  const std::array<int64_t, 5> sequence{l.steps, l.batch, l.channels, l.height, l.width};
  check_like_x(op, "output", output, sequence, inputs.x);
  check_optional(op, "grad_output", grad_output, sequence, inputs.x);
  check_optional(op, "grad_c_n", grad_c_n, at::IntArrayRef(sequence).slice(1), inputs.x);
  const auto size = [&](Save save) { return reserve_size(save, l.sequence(), inputs.x.scalar_type()); };
  const Save save = reserve.numel() == size(Save::cells) ? Save::cells : Save::gates_and_cells;
  TORCH_CHECK(reserve.sizes() == at::IntArrayRef({size(save)}), op,
              ": reserve must have the shape that convlstm gives with save=1 or save=2, (", size(Save::gates_and_cells),
              ") or (", size(Save::cells), "), got ", reserve.sizes());
  check_tensor(op, "reserve", reserve, reserve.sizes(), inputs.x);
  TORCH_CHECK(reserve.is_contiguous(), op, ": reserve must be contiguous, got strides ", reserve.strides());
  const auto dtype = inputs.x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(reserve.scalar_type() == dtype, op, ": reserve must be of dtype ", dtype, ", got ",
              reserve.scalar_type());
  return save;
}

}  // namespace pdb

// convlstm: all steps of one layer; the equations are in pdb_ext/ops.py. `peephole` has its full shape (3, C, H,
// W); with peephole_current the output gate reads c_t. `reserve` is what convlstm_backward needs besides `output`: with
// save = 1 the gates, in x's dtype, and the cell states, together 5*T*N*C*H*W values of the accumulation type (float64
// for float64, else float32; 3*T*N*C*H*W for half types), in an order of the implementation's own; with save = 2 the
// T*N*C*H*W cell states alone, and convlstm_backward computes the gates again; with save = 0 nothing. The op includes
// the input convolution, so that an implementation may hoist, fuse or recompute it.
// convlstm_backward: the gradients in the order of convlstm's arguments; those that `needs` leaves out have no
// elements.
TORCH_LIBRARY(pdb_ext, m) {
  m.def(
      "convlstm(Tensor x, Tensor weight_x, Tensor weight_h, Tensor? bias, Tensor? peephole, Tensor? h_0, Tensor? c_0, "
      "int dilation, bool reverse, bool peephole_current, int save) -> (Tensor output, Tensor c_n, Tensor reserve)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "convlstm_backward(Tensor? grad_output, Tensor? grad_c_n, Tensor x, Tensor weight_x, Tensor weight_h, "
      "Tensor? bias, Tensor? peephole, Tensor? h_0, Tensor? c_0, Tensor output, Tensor reserve, int dilation, bool "
      "reverse, "
      "bool peephole_current, bool[7] needs) -> (Tensor x, Tensor weight_x, Tensor weight_h, Tensor bias, "
      "Tensor peephole, Tensor h_0, Tensor c_0)",
      {at::Tag::pt2_compliant_tag});
}
