// See aten_layer.h.
#include "ops/cuda/aten_layer.h"

#include "ops/cuda/aten_gates.h"
#include "ops/cuda/aten_sequence.h"
#include "ops/gradients.h"

namespace pdb::cuda {
namespace {

class AtenLayer {
 public:
  AtenLayer(const Layer& layer, const Inputs& inputs, const AtenOptions& options)
      : layer_(layer),
        inputs_(inputs),
        sequence_(layer, kGateCount, inputs.x, options.allow_tf32),
        convolution_(sequence_.convolution),
        cell_{layer,
              sequence_.format,
              inputs.bias ? OptionalTensor(inputs.bias->contiguous()) : std::nullopt,
              inputs.peephole,
              options.has_kernels,
              options.stream},
        weight_x_(inputs.weight_x.contiguous(sequence_.format)),
        weight_h_(inputs.weight_h.contiguous(sequence_.format)) {}

  ForwardResult forward(Save save) const {
    const Layer& l = layer_;
    const at::Tensor output = at::empty({l.steps, l.batch, l.channels, l.height, l.width}, inputs_.x.options());
    const int64_t saved_size = reserve_size(save, l.sequence(), inputs_.x.scalar_type());
    const at::Tensor reserve = at::empty({saved_size}, sequence_.accumulation());
    const Saved saved = split(reserve);
    AtenForwardStep step;
    step.h_operand = sequence_.channels_last() ? sequence_.operand(l.batch, l.channels) : at::Tensor();
    step.c_previous = initial_cell();
    at::Tensor h = inputs_.h_0 ? inputs_.h_0->contiguous(sequence_.format) : at::Tensor();
    const at::Tensor running_c =
        save == Save::nothing ? at::empty(sequence_.state_shape(), sequence_.accumulation()) : at::Tensor();
    sequence_.for_each_chunk([&](const Chunk& chunk) {
      const at::Tensor gates_x = convolution_.forward(sequence_.frames(inputs_.x, chunk), weight_x_);
      for (int64_t s = chunk.begin; s < chunk.end; ++s) {
        const int64_t t = layer_.frame(s);
        step.gates_x = sequence_.images(gates_x, chunk, t);
        step.gates_h = h.defined() ? convolution_.forward(h, weight_h_) : at::Tensor();
        step.h = output[t];
        step.c = running_c.defined() ? running_c : saved.cells[t];
        step.gates = saved.gates.defined() ? saved.gates[t] : at::Tensor();
        cell_.forward(step);
        h = sequence_.channels_last() ? step.h_operand : step.h;
        step.c_previous = step.c;
      }
    });
    return {output, step.c.to(inputs_.x.scalar_type(), /*non_blocking=*/false, /*copy=*/true), reserve};
  }

  BackwardResult backward(const Cotangents& cotangents, const at::Tensor& output, const at::Tensor& reserve,
                          const std::array<bool, kGradients>& needs) const {
    const Layer& l = layer_;
    const Saved saved = split(reserve);
    const OptionalTensor grad_output =
        cotangents.output ? OptionalTensor(cotangents.output->contiguous()) : std::nullopt;
    Gradients grads;  // sums over the chunks, in the accumulation dtype
    if (needs[kX]) grads[kX] = at::empty(inputs_.x.sizes(), inputs_.x.options());
    AtenBackwardStep step;
    step.grad_c_n = cotangents.c_n ? cotangents.c_n->contiguous() : at::Tensor();
    step.grad_c = at::empty(sequence_.state_shape(), sequence_.accumulation());
    if (needs[kPeephole])
      step.grad_peephole = at::zeros({l.batch, 3, l.channels, l.height, l.width}, sequence_.accumulation());
    sequence_.for_each_chunk_backward([&](const Chunk& chunk) {
      const bool recompute = !saved.gates.defined();
      at::Tensor gates_x, gates_h, previous;
      if (recompute || needs[kWeightH]) previous = sequence_.previous_states(output, inputs_.h_0, chunk);
      if (recompute) {
        gates_x = convolution_.forward(sequence_.frames(inputs_.x, chunk), weight_x_);
        gates_h = convolution_.forward(previous, weight_h_);
      }
      const at::Tensor grad_gates = recompute ? gates_x : sequence_.operand(chunk.steps() * l.batch, 4 * l.channels);
      for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
        const int64_t t = layer_.frame(s);
        step.grad_output = grad_output ? (*grad_output)[t] : at::Tensor();
        step.gates = recompute ? at::Tensor() : saved.gates[t];
        if (recompute)
          step.gates_x = sequence_.images(gates_x, chunk, t), step.gates_h = sequence_.images(gates_h, chunk, t);
        step.c = saved.cells[t];
        step.c_previous = s > 0 ? saved.cells[layer_.frame(s - 1)] : initial_cell();
        step.grad_gates = sequence_.images(grad_gates, chunk, t);
        cell_.backward(step);
        if (s > 0 || needs[kH0]) step.grad_h = convolution_.data_gradient(step.grad_gates, weight_h_);
      }
      add_batched(chunk, grad_gates, previous, needs, grads);
    });
    if (needs[kPeephole]) grads[kPeephole] = step.grad_peephole.sum(0);
    if (needs[kH0]) grads[kH0] = step.grad_h.contiguous();
    if (needs[kC0]) grads[kC0] = step.grad_c;
    for (at::Tensor& grad : grads) grad = sequence_.result(grad);
    return to_result(grads);
  }

 private:
  struct Saved {
    at::Tensor gates, cells;  // (T, N, 4, C, H, W) and (T, N, C, H, W), or undefined
  };

  at::Tensor initial_cell() const {
    return inputs_.c_0 ? inputs_.c_0->to(sequence_.accumulation_type()).contiguous() : at::Tensor();
  }

  Saved split(const at::Tensor& reserve) const {
    const Layer& l = layer_;
    const int64_t cells = l.sequence();
    if (reserve.numel() == 0) return {};
    const auto part = [&](int64_t begin, int64_t size) { return reserve.narrow(0, begin, size); };
    Saved saved;
    saved.cells = part(reserve.numel() - cells, cells).view({l.steps, l.batch, l.channels, l.height, l.width});
    if (reserve.numel() > cells)
      saved.gates = part(0, reserve.numel() - cells)
                        .view(inputs_.x.scalar_type())
                        .view({l.steps, l.batch, 4, l.channels, l.height, l.width});
    return saved;
  }

  void add_batched(const Chunk& chunk, const at::Tensor& grad_gates, const at::Tensor& previous,
                   const std::array<bool, kGradients>& needs, Gradients& grads) const {
    if (needs[kWeightX])
      sequence_.add_weight_gradient(grads[kWeightX], grad_gates, sequence_.frames(inputs_.x, chunk), weight_x_);
    if (needs[kWeightH]) sequence_.add_weight_gradient(grads[kWeightH], grad_gates, previous, weight_h_);
    if (needs[kBias]) sequence_.add_bias_gradient(grads[kBias], grad_gates);
    if (needs[kX]) sequence_.store_x_gradient(grads[kX], chunk, grad_gates, weight_x_);
  }

  const Layer& layer_;
  const Inputs& inputs_;
  const AtenSequence sequence_;
  const AtenConvolution& convolution_;
  const AtenCell cell_;
  const at::Tensor weight_x_, weight_h_;
};

}  // namespace

ForwardResult aten_forward(const Layer& layer, const Inputs& inputs, Save save, const AtenOptions& options) {
  const OnlyKernels guard;
  return AtenLayer(layer, inputs, options).forward(save);
}

BackwardResult aten_backward(const Layer& layer, const Inputs& inputs, const Cotangents& cotangents,
                             const at::Tensor& output, const at::Tensor& reserve,
                             const std::array<bool, kGradients>& needs, const AtenOptions& options) {
  const OnlyKernels guard;
  return AtenLayer(layer, inputs, options).backward(cotangents, output, reserve, needs);
}

}  // namespace pdb::cuda
