// See aten_gru.h. A step has a convolution for each of its halves (gru_step.h), forward and backward.
#include "ops/cuda/aten_gru.h"

#include <ATen/ops/cat.h>

#include "ops/cuda/aten_gru_gates.h"
#include "ops/cuda/aten_sequence.h"

namespace pdb::cuda {
namespace {

class AtenGru {
 public:
  AtenGru(const Layer& layer, const GruInputs& inputs, const OptionalTensor& bias, const AtenOptions& options)
      : layer_(layer),
        inputs_(inputs),
        sequence_(layer, kGruGateCount, inputs.x, options.allow_tf32),
        convolution_(sequence_.convolution),
        cell_{layer, sequence_.format, contiguous(bias), options.has_kernels, options.stream},
        weight_x_(inputs.weight_x.contiguous(sequence_.format)),
        reset_h_(rows_of(inputs.weight_h, GruHalf::reset).contiguous(sequence_.format)),
        update_h_(rows_of(inputs.weight_h, GruHalf::update).contiguous(sequence_.format)),
        h_0_(contiguous(inputs.h_0)) {}

  GruForwardResult forward(bool save) const {
    const Layer& l = layer_;
    const at::Tensor output = at::empty({l.steps, l.batch, l.channels, l.height, l.width}, inputs_.x.options());
    const at::Tensor gates = at::empty({gru_gates_size(l, save)}, inputs_.x.options());
    AtenGruForwardStep step;
    step.z = at::empty(sequence_.state_shape(), sequence_.accumulation());
    const at::Tensor rh = sequence_.operand(l.batch, l.channels);
    const at::Tensor h_operand = sequence_.channels_last() ? sequence_.operand(l.batch, l.channels) : at::Tensor();
    at::Tensor h = h_0_ ? h_0_->contiguous(sequence_.format) : at::Tensor();
    sequence_.for_each_chunk([&](const Chunk& chunk) {
      const at::Tensor gates_x = convolution_.forward(sequence_.frames(inputs_.x, chunk), weight_x_);
      for (int64_t s = chunk.begin; s < chunk.end; ++s) {
        const int64_t t = l.frame(s);
        step.gates_x = sequence_.images(gates_x, chunk, t);
        step.gates = save ? saved(gates)[t] : at::Tensor();
        step.h_previous = state_before(output, s);
        step.h = output[t];
        step.gates_h = h.defined() ? convolution_.forward(h, reset_h_) : at::Tensor();
        step.operand = rh;
        cell_.forward(GruHalf::reset, step);
        step.gates_h = h.defined() ? convolution_.forward(rh, update_h_) : at::Tensor();
        step.operand = h_operand;
        cell_.forward(GruHalf::update, step);
        h = sequence_.channels_last() ? h_operand : step.h;
      }
    });
    return {output, gates};
  }

  GruBackwardResult backward(const OptionalTensor& grad_output, const at::Tensor& output, const at::Tensor& gates,
                             const std::array<bool, kGruGradients>& needs) const {
    const OptionalTensor grads_of_output = contiguous(grad_output);
    const at::Tensor states = output.contiguous();
    GruGradients grads;  // sums over the chunks, in the accumulation dtype
    if (needs[kGruX]) grads[kGruX] = at::empty(inputs_.x.sizes(), inputs_.x.options());
    AtenGruBackwardStep step;
    step.grad_h = at::empty(sequence_.state_shape(), sequence_.accumulation());
    at::Tensor grad_h;  // what reaches h_t through r and z of the step that ran after it
    sequence_.for_each_chunk_backward([&](const Chunk& chunk) {
      const Batched all(sequence_, layer_, chunk);
      for (int64_t s = chunk.end - 1; s >= chunk.begin; --s) {
        const int64_t t = layer_.frame(s);
        step.grad_output = grads_of_output ? (*grads_of_output)[t] : at::Tensor();
        step.gates = saved(gates)[t];
        step.h_previous = state_before(states, s);
        step.grad_reset = sequence_.images(all.grad_reset, chunk, t);
        step.grad_update = sequence_.images(all.grad_update, chunk, t);
        step.rh = sequence_.images(all.rh, chunk, t);
        step.grad = grad_h;
        cell_.backward(GruHalf::update, step);
        step.grad = convolution_.data_gradient(step.grad_update, update_h_);
        cell_.backward(GruHalf::reset, step);
        if (s > 0 || needs[kGruH0]) grad_h = convolution_.data_gradient(step.grad_reset, reset_h_);
      }
      add_batched(chunk, all, states, needs, grads);
    });
    if (needs[kGruH0]) grads[kGruH0] = step.grad_h.add(grad_h);
    for (at::Tensor& grad : grads) grad = sequence_.result(grad);
    return to_result(grads);
  }

 private:
  // Operands (images, channels, H, W) for all steps of a chunk.
  struct Batched {
    at::Tensor grad_reset, grad_update, rh;

    Batched(const AtenSequence& sequence, const Layer& l, const Chunk& chunk)
        : grad_reset(sequence.operand(chunk.steps() * l.batch, 2 * l.channels)),
          grad_update(sequence.operand(chunk.steps() * l.batch, l.channels)),
          rh(sequence.operand(chunk.steps() * l.batch, l.channels)) {}
  };

  // The rows of a weight whose convolution a half of a step needs.
  at::Tensor rows_of(const at::Tensor& weight, GruHalf half) const {
    return weight.narrow(0, gru_first_gate(half) * layer_.channels, gru_gates(half) * layer_.channels);
  }

  at::Tensor saved(const at::Tensor& gates) const {
    const Layer& l = layer_;
    return gates.view({l.steps, l.batch, kGruGateCount, l.channels, l.height, l.width});
  }

  // h before step s, contiguous.
  at::Tensor state_before(const at::Tensor& output, int64_t s) const {
    return s > 0 ? output[layer_.frame(s - 1)] : h_0_.value_or(at::Tensor());
  }

  void add_batched(const Chunk& chunk, const Batched& all, const at::Tensor& output,
                   const std::array<bool, kGruGradients>& needs, GruGradients& grads) const {
    if (needs[kGruWeightH]) {
      const at::Tensor previous = sequence_.previous_states(output, h_0_, chunk);
      at::Tensor reset, update;
      sequence_.add_weight_gradient(reset, all.grad_reset, previous, reset_h_);
      sequence_.add_weight_gradient(update, all.grad_update, all.rh, update_h_);
      sequence_.add(grads[kGruWeightH], at::cat({reset, update}));
    }
    if (!needs[kGruX] && !needs[kGruWeightX] && !needs[kGruBias]) return;
    const at::Tensor grad_gates = at::cat({all.grad_reset, all.grad_update}, 1).contiguous(sequence_.format);
    if (needs[kGruWeightX])
      sequence_.add_weight_gradient(grads[kGruWeightX], grad_gates, sequence_.frames(inputs_.x, chunk), weight_x_);
    if (needs[kGruBias]) sequence_.add_bias_gradient(grads[kGruBias], grad_gates);
    if (needs[kGruX]) sequence_.store_x_gradient(grads[kGruX], chunk, grad_gates, weight_x_);
  }

  const Layer& layer_;
  const GruInputs& inputs_;
  const AtenSequence sequence_;
  const AtenConvolution& convolution_;
  const AtenGruCell cell_;
  const at::Tensor weight_x_, reset_h_, update_h_;
  const OptionalTensor h_0_;
};

}  // namespace

GruForwardResult aten_gru_forward(const Layer& layer, const GruInputs& inputs, const OptionalTensor& bias, bool save,
                                  const AtenOptions& options) {
  const OnlyKernels guard;
  return AtenGru(layer, inputs, bias, options).forward(save);
}

GruBackwardResult aten_gru_backward(const Layer& layer, const GruInputs& inputs, const OptionalTensor& grad_output,
                                    const at::Tensor& output, const at::Tensor& gates,
                                    const std::array<bool, kGruGradients>& needs, const AtenOptions& options) {
  const OnlyKernels guard;
  return AtenGru(layer, inputs, std::nullopt, options).backward(grad_output, output, gates, needs);
}

}  // namespace pdb::cuda
