// See aten_layer.h. The convolution of x, and all gradients except those through time, are batched over chunks of
// steps: large products in bounded memory.
#include "ops/cuda/aten_layer.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>

#include "ops/cuda/aten_convolution.h"
#include "ops/cuda/aten_gates.h"
#include "ops/cuda/tensors.h"
#include "ops/gradients.h"

namespace pdb::cuda {
namespace {

constexpr int64_t kChunkBytes = 256 << 20;  // of one array (steps, N, 4C, H, W)

// The calls made here are part of the computation, not the user's: neither autograd nor autocast may see them.
struct OnlyKernels {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

class AtenLayer {
 public:
  AtenLayer(const Layer& layer, const Inputs& inputs, const AtenOptions& options)
      : layer_(layer),
        inputs_(inputs),
        // cuDNN's tensor-core convolutions work on channels_last; given the other order it converts in every call.
        format_(layer.tensor_cores ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous),
        convolution_{layer.kernel / 2 * layer.dilation, layer.dilation, format_, options.allow_tf32},
        cell_{layer,
              format_,
              inputs.bias ? OptionalTensor(inputs.bias->contiguous()) : std::nullopt,
              inputs.peephole,
              options.has_kernels,
              options.stream},
        weight_x_(inputs.weight_x.contiguous(format_)),
        weight_h_(inputs.weight_h.contiguous(format_)) {
    const int64_t step_bytes = 4 * layer.state() * inputs.x.element_size();
    chunk_steps_ = std::clamp<int64_t>(kChunkBytes / step_bytes, 1, layer.steps);
  }

  ForwardResult forward(Save save) const {
    const Layer& l = layer_;
    const at::Tensor output = at::empty({l.steps, l.batch, l.channels, l.height, l.width}, inputs_.x.options());
    const int64_t saved_size = reserve_size(save, l.sequence(), inputs_.x.scalar_type());
    const at::Tensor reserve = at::empty({saved_size}, accumulation());
    const Saved saved = split(reserve);
    AtenForwardStep step;
    step.h_operand = channels_last() ? operand(l.batch, l.channels) : at::Tensor();
    step.c_previous = initial_cell();
    at::Tensor h = inputs_.h_0 ? inputs_.h_0->contiguous(format_) : at::Tensor();
    const at::Tensor running_c = save == Save::nothing ? at::empty(state_shape(), accumulation()) : at::Tensor();
    for (int64_t begin = 0; begin < l.steps; begin += chunk_steps_) {
      const Chunk chunk = chunk_from(begin);
      const at::Tensor gates_x = convolution_.forward(frames(inputs_.x, chunk), weight_x_);
      for (int64_t s = begin; s < chunk.end; ++s) {
        const int64_t t = layer_.frame(s);
        step.gates_x = images(gates_x, chunk, t);
        step.gates_h = h.defined() ? convolution_.forward(h, weight_h_) : at::Tensor();
        step.h = output[t];
        step.c = running_c.defined() ? running_c : saved.cells[t];
        step.gates = saved.gates.defined() ? saved.gates[t] : at::Tensor();
        cell_.forward(step);
        h = channels_last() ? step.h_operand : step.h;
        step.c_previous = step.c;
      }
    }
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
    step.grad_c = at::empty(state_shape(), accumulation());
    if (needs[kPeephole]) step.grad_peephole = at::zeros({l.batch, 3, l.channels, l.height, l.width}, accumulation());
    const int64_t last_chunk = (l.steps - 1) / chunk_steps_ * chunk_steps_;
    for (int64_t begin = last_chunk; begin >= 0; begin -= chunk_steps_) {
      const Chunk chunk = chunk_from(begin);
      const bool recompute = !saved.gates.defined();
      at::Tensor gates_x, gates_h, previous;
      if (recompute || needs[kWeightH]) previous = previous_states(output, chunk);
      if (recompute) {
        gates_x = convolution_.forward(frames(inputs_.x, chunk), weight_x_);
        gates_h = convolution_.forward(previous, weight_h_);
      }
      const at::Tensor grad_gates = recompute ? gates_x : operand((chunk.end - begin) * l.batch, 4 * l.channels);
      for (int64_t s = chunk.end - 1; s >= begin; --s) {
        const int64_t t = layer_.frame(s);
        step.grad_output = grad_output ? (*grad_output)[t] : at::Tensor();
        step.gates = recompute ? at::Tensor() : saved.gates[t];
        if (recompute) step.gates_x = images(gates_x, chunk, t), step.gates_h = images(gates_h, chunk, t);
        step.c = saved.cells[t];
        step.c_previous = s > 0 ? saved.cells[layer_.frame(s - 1)] : initial_cell();
        step.grad_gates = images(grad_gates, chunk, t);
        cell_.backward(step);
        if (s > 0 || needs[kH0]) step.grad_h = convolution_.data_gradient(step.grad_gates, weight_h_);
      }
      add_batched(chunk, grad_gates, previous, needs, grads);
    }
    if (needs[kPeephole]) grads[kPeephole] = step.grad_peephole.sum(0);
    if (needs[kH0]) grads[kH0] = step.grad_h.contiguous();
    if (needs[kC0]) grads[kC0] = step.grad_c;
    for (at::Tensor& grad : grads)
      grad = grad.defined() ? grad.to(inputs_.x.scalar_type()).contiguous() : at::empty({0}, inputs_.x.options());
    return to_result(grads);
  }

 private:
  // Steps [begin, end) in the order in which they run; their frames are [first, first + end - begin).
  struct Chunk {
    int64_t begin, end, first;
  };

  struct Saved {
    at::Tensor gates, cells;  // (T, N, 4, C, H, W) and (T, N, C, H, W), or undefined
  };

  bool channels_last() const { return format_ == at::MemoryFormat::ChannelsLast; }
  at::TensorOptions accumulation() const {
    return inputs_.x.options().dtype(accumulation_dtype(inputs_.x.scalar_type()));
  }
  std::array<int64_t, 4> state_shape() const { return {layer_.batch, layer_.channels, layer_.height, layer_.width}; }

  Chunk chunk_from(int64_t begin) const {
    const int64_t end = std::min(begin + chunk_steps_, layer_.steps);
    return {begin, end, layer_.reverse ? layer_.steps - end : begin};
  }

  at::Tensor operand(int64_t images, int64_t channels) const {
    return at::empty({images, channels, layer_.height, layer_.width}, inputs_.x.options().memory_format(format_));
  }

  at::Tensor initial_cell() const {
    return inputs_.c_0 ? inputs_.c_0->to(accumulation().dtype().toScalarType()).contiguous() : at::Tensor();
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

  // The frames of a sequence (T, N, channels, H, W) as images: an operand.
  at::Tensor frames(const at::Tensor& sequence, const Chunk& chunk) const {
    return sequence.narrow(0, chunk.first, chunk.end - chunk.begin).flatten(0, 1).contiguous(format_);
  }

  // The images of frame t among those of the chunk.
  at::Tensor images(const at::Tensor& all, const Chunk& chunk, int64_t t) const {
    return all.narrow(0, (t - chunk.first) * layer_.batch, layer_.batch);
  }

  // h_{t-1} of every frame t of the chunk, as images: an operand.
  at::Tensor previous_states(const at::Tensor& output, const Chunk& chunk) const {
    const at::Tensor result = operand((chunk.end - chunk.begin) * layer_.batch, layer_.channels);
    for (int64_t s = chunk.begin; s < chunk.end; ++s) {
      const at::Tensor target = images(result, chunk, layer_.frame(s));
      if (s > 0)
        target.copy_(output[layer_.frame(s - 1)]);
      else if (inputs_.h_0)
        target.copy_(*inputs_.h_0);
      else
        target.zero_();
    }
    return result;
  }

  void add_batched(const Chunk& chunk, const at::Tensor& grad_gates, const at::Tensor& previous,
                   const std::array<bool, kGradients>& needs, Gradients& grads) const {
    const auto dtype = accumulation().dtype().toScalarType();
    const auto add = [&](Gradient which, const at::Tensor& part) {
      const at::Tensor wide = part.to(dtype);
      grads[which] = grads[which].defined() ? grads[which].add(wide) : wide;
    };
    // Without tensor cores frame by frame: cuDNN's deterministic algorithm adds one product after the other, and in a
    // sum over all frames the rounding errors are several times as large.
    const auto add_weight = [&](Gradient which, const at::Tensor& input, const at::Tensor& weight) {
      const int64_t all = grad_gates.size(0), some = layer_.tensor_cores ? all : layer_.batch;
      for (int64_t i = 0; i < all; i += some)
        add(which, convolution_.weight_gradient(grad_gates.narrow(0, i, some), input.narrow(0, i, some), weight));
    };
    if (needs[kWeightX]) add_weight(kWeightX, frames(inputs_.x, chunk), weight_x_);
    if (needs[kWeightH]) add_weight(kWeightH, previous, weight_h_);
    if (needs[kBias]) add(kBias, grad_gates.sum(at::IntArrayRef({0, 2, 3}), /*keepdim=*/false, dtype));
    if (needs[kX])
      grads[kX]
          .narrow(0, chunk.first, chunk.end - chunk.begin)
          .flatten(0, 1)
          .copy_(convolution_.data_gradient(grad_gates, weight_x_));
  }

  const Layer& layer_;
  const Inputs& inputs_;
  const at::MemoryFormat format_;
  const AtenConvolution convolution_;
  const AtenCell cell_;
  const at::Tensor weight_x_, weight_h_;
  int64_t chunk_steps_;
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
