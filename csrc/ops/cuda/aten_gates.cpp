// See aten_gates.h.
#include "ops/cuda/aten_gates.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include "cuda/gates/gates.h"
#include "gate.h"
#include "ops/cuda/tensors.h"

namespace pdb::cuda {
namespace {

void launch_forward(const AtenCell& cell, const AtenForwardStep& tensors) {
  dispatch(tensors.h.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    ForwardStep<T> step{};
    step.bias = read<T>(cell.bias);
    step.peephole = read_peephole<T>(cell.peephole);
    step.c_previous = read<A>(tensors.c_previous);
    step.h = write<T>(tensors.h);
    step.c = write<A>(tensors.c);
    step.gates = write<T>(tensors.gates);
    check_launch(launch_gates_forward<T>(cell.layer, layout_of(cell.format),
                                         {read<T>(tensors.gates_x), read<T>(tensors.gates_h)}, step,
                                         write<T>(tensors.h_operand), cell.stream));
  });
}

void launch_backward(const AtenCell& cell, const AtenBackwardStep& tensors) {
  dispatch(tensors.grad_gates.scalar_type(), [&](auto type) {
    using T = decltype(type);
    using A = accumulation_t<T>;
    BackwardStep<T> step{};
    step.grad_output = read<T>(tensors.grad_output);
    step.grad_c_n = read<T>(tensors.grad_c_n);
    step.gates = read<T>(tensors.gates);
    step.c = read<A>(tensors.c);
    step.c_previous = read<A>(tensors.c_previous);
    step.peephole = read_peephole<T>(cell.peephole);
    step.grad_c = write<A>(tensors.grad_c);
    const GateGradients<T> gradients{read<T>(tensors.grad_h),
                                     {read<T>(tensors.gates_x), read<T>(tensors.gates_h)},
                                     read<T>(cell.bias),
                                     write<T>(tensors.grad_gates),
                                     write<A>(tensors.grad_peephole)};
    check_launch(launch_gates_backward<T>(cell.layer, layout_of(cell.format), gradients, step, cell.stream));
  });
}

struct Activations {
  at::Tensor i, f, o, g, c;
};

// The cell's equations (cell.h) in the accumulation dtype.
Activations activate(const AtenCell& cell, const at::Tensor& gates_x, const at::Tensor& gates_h,
                     const at::Tensor& c_previous) {
  at::Tensor sums = gates_x.to(c_previous.scalar_type());
  if (gates_h.defined()) sums = sums + gates_h;
  if (cell.bias) sums = sums + cell.bias->view({1, -1, 1, 1});
  const auto gates = sums.chunk(kGateCount, 1);
  const auto plus_peephole = [&](Gate gate, const at::Tensor& c) {
    return cell.peephole ? gates[gate] + cell.peephole->select(0, gate) * c : gates[gate];
  };
  Activations a;
  a.i = plus_peephole(kGateI, c_previous).sigmoid();
  a.f = plus_peephole(kGateF, c_previous).sigmoid();
  a.g = gates[kGateG].tanh();
  a.c = a.f * c_previous + a.i * a.g;
  a.o = plus_peephole(kGateO, cell.layer.peephole_current ? a.c : c_previous).sigmoid();
  return a;
}

at::Tensor or_zeros(const at::Tensor& tensor, const at::Tensor& like) {
  return tensor.defined() ? tensor : at::zeros_like(like);
}

void compose_forward(const AtenCell& cell, const AtenForwardStep& step) {
  const Activations a = activate(cell, step.gates_x, step.gates_h, or_zeros(step.c_previous, step.c));
  step.c.copy_(a.c);
  step.h.copy_(a.o * a.c.tanh());
  if (step.h_operand.defined()) step.h_operand.copy_(step.h);
  if (!step.gates.defined()) return;
  step.gates.select(1, kGateI).copy_(a.i);
  step.gates.select(1, kGateF).copy_(a.f);
  step.gates.select(1, kGateO).copy_(a.o);
  step.gates.select(1, kGateG).copy_(a.g);
}

Activations saved_activations(const AtenBackwardStep& step) {
  const auto gate = [&](Gate which) { return step.gates.select(1, which).to(step.c.scalar_type()); };
  return {gate(kGateI), gate(kGateF), gate(kGateO), gate(kGateG), step.c};
}

void compose_backward(const AtenCell& cell, const AtenBackwardStep& step) {
  const at::Tensor c_previous = or_zeros(step.c_previous, step.c);
  const bool last = !step.grad_h.defined(), current = cell.layer.peephole_current;
  const Activations a =
      step.gates.defined() ? saved_activations(step) : activate(cell, step.gates_x, step.gates_h, c_previous);
  at::Tensor dh = at::zeros_like(step.c);
  if (step.grad_output.defined()) dh = dh + step.grad_output;
  if (!last) dh = dh + step.grad_h;
  at::Tensor dc = last ? or_zeros(step.grad_c_n, step.c).to(step.c.scalar_type()) : step.grad_c;
  const at::Tensor tanh_c = step.c.tanh();
  const at::Tensor d_o = dh * tanh_c * a.o * (1 - a.o);
  const auto peephole = [&](Gate gate) { return cell.peephole->select(0, gate); };
  dc = dc + dh * a.o * (1 - tanh_c * tanh_c);
  if (cell.peephole && current) dc = dc + d_o * peephole(kGateO);
  const at::Tensor d_i = dc * a.g * a.i * (1 - a.i), d_f = dc * c_previous * a.f * (1 - a.f);
  const at::Tensor d_g = dc * a.i * (1 - a.g * a.g);
  dc = dc * a.f;
  if (cell.peephole) dc = dc + d_i * peephole(kGateI) + d_f * peephole(kGateF);
  if (cell.peephole && !current) dc = dc + d_o * peephole(kGateO);
  step.grad_c.copy_(dc);
  if (step.grad_peephole.defined()) {
    step.grad_peephole.select(1, kGateI).add_(d_i * c_previous);
    step.grad_peephole.select(1, kGateF).add_(d_f * c_previous);
    step.grad_peephole.select(1, kGateO).add_(d_o * (current ? step.c : c_previous));
  }
  const auto targets = step.grad_gates.chunk(kGateCount, 1);
  targets[kGateI].copy_(d_i);
  targets[kGateF].copy_(d_f);
  targets[kGateO].copy_(d_o);
  targets[kGateG].copy_(d_g);
}

}  // namespace

void AtenCell::forward(const AtenForwardStep& step) const {
  has_kernels ? launch_forward(*this, step) : compose_forward(*this, step);
}

void AtenCell::backward(const AtenBackwardStep& step) const {
  has_kernels ? launch_backward(*this, step) : compose_backward(*this, step);
}

}  // namespace pdb::cuda
