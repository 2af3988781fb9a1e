// See aten_gru_gates.h.
#include "ops/cuda/aten_gru_gates.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include "cuda/gates/gru_gates.h"
#include "ops/cuda/tensors.h"

namespace pdb::cuda {
namespace {

void launch_forward(const AtenGruCell& cell, GruHalf half, const AtenGruForwardStep& tensors) {
  dispatch(tensors.h.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    GruForwardStep<T> step{};
    step.h_previous = read<T>(tensors.h_previous);
    step.bias = read<T>(cell.bias);
    step.z = write<A>(tensors.z);
    step.h = write<T>(tensors.h);
    step.gates = write<T>(tensors.gates);
    const GateSums<T> sums{read<T>(tensors.gates_x), read<T>(tensors.gates_h)};
    check_launch(launch_gru_gates_forward<T>(cell.layer, layout_of(cell.format), half, sums, step,
                                             write<T>(tensors.operand), cell.stream));
  });
}

void launch_backward(const AtenGruCell& cell, GruHalf half, const AtenGruBackwardStep& tensors) {
  dispatch(tensors.gates.scalar_type(), [&](auto type) {
    using T = decltype(type);
    GruBackwardStep<T> step{};
    step.grad_output = read<T>(tensors.grad_output);
    step.gates = read<T>(tensors.gates);
    step.h_previous = read<T>(tensors.h_previous);
    step.grad_h = write<accumulation_t<T>>(tensors.grad_h);
    const GruHalfGradients<T> gradients{read<T>(tensors.grad), write<T>(tensors.grad_reset),
                                        write<T>(tensors.grad_update), write<T>(tensors.rh)};
    check_launch(launch_gru_gates_backward<T>(cell.layer, layout_of(cell.format), half, gradients, step, cell.stream));
  });
}

at::Tensor or_zeros(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::zeros_like(like);
}

// The equations of gru_cell.h in the accumulation dtype.
void compose_forward(const AtenGruCell& cell, GruHalf half, const AtenGruForwardStep& step) {
  const int64_t C = cell.layer.channels, first = gru_first_gate(half) * C, rows = gru_gates(half) * C;
  const at::Tensor h_previous = or_zeros(step.h_previous, step.h).to(step.z.scalar_type());
  at::Tensor sums = step.gates_x.narrow(1, first, rows).to(step.z.scalar_type());
  if (step.gates_h.defined()) sums = sums + step.gates_h;
  if (cell.bias) sums = sums + cell.bias->narrow(0, first, rows).view({1, -1, 1, 1});
  const auto save = [&](GruGate gate, const at::Tensor& value) {
    if (step.gates.defined()) step.gates.select(1, gate).copy_(value);
  };
  if (half == GruHalf::reset) {
    const at::Tensor gates = sums.sigmoid(), r = gates.narrow(1, 0, C);
    step.z.copy_(gates.narrow(1, C, C));
    step.operand.copy_(r * h_previous);
    save(kGateR, r);
    save(kGateZ, step.z);
  } else {
    const at::Tensor n = sums.tanh();
    step.h.copy_(n + step.z * (h_previous - n));
    if (step.operand.defined()) step.operand.copy_(step.h);
    save(kGateN, n);
  }
}

void compose_backward(const AtenGruCell& cell, GruHalf half, const AtenGruBackwardStep& step) {
  const int64_t C = cell.layer.channels;
  const auto gate = [&](GruGate which) { return step.gates.select(1, which).to(step.grad_h.scalar_type()); };
  const at::Tensor h_previous = or_zeros(step.h_previous, step.grad_h).to(step.grad_h.scalar_type());
  if (half == GruHalf::update) {
    const at::Tensor z = gate(kGateZ), n = gate(kGateN);
    at::Tensor dh = or_zeros(step.grad_output, step.grad_h).to(step.grad_h.scalar_type());
    if (step.grad.defined()) dh = dh + step.grad + step.grad_h;
    step.grad_reset.narrow(1, C, C).copy_(dh * (h_previous - n) * z * (1 - z));
    step.grad_update.copy_(dh * (1 - z) * (1 - n * n));
    step.grad_h.copy_(dh * z);
  } else {
    const at::Tensor r = gate(kGateR), drh = step.grad.to(step.grad_h.scalar_type());
    step.grad_reset.narrow(1, 0, C).copy_(drh * h_previous * r * (1 - r));
    step.grad_h.add_(drh * r);
    if (step.rh.defined()) step.rh.copy_(r * h_previous);
  }
}

}  // namespace

void AtenGruCell::forward(GruHalf half, const AtenGruForwardStep& step) const {
  has_kernels ? launch_forward(*this, half, step) : compose_forward(*this, half, step);
}

void AtenGruCell::backward(GruHalf half, const AtenGruBackwardStep& step) const {
  has_kernels ? launch_backward(*this, half, step) : compose_backward(*this, half, step);
}

}  // namespace pdb::cuda
