// What the layers on the path `aten` share: a sequence in chunks of steps, its frames as images, and the convolutions
// over them. The convolution of x, and all gradients except those through time, are batched over chunks of steps: large
// products in bounded memory.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <array>

#include "ops/check_layer.h"
#include "ops/cuda/aten_convolution.h"
#include "ops/cuda/tensors.h"

namespace pdb::cuda {

// The calls made here are part of the computation, not the user's: neither autograd nor autocast may see them.
struct OnlyKernels {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// Steps [begin, end) in the order in which they run; their frames are [first, first + end - begin).
struct Chunk {
  int64_t begin, end, first;

  int64_t steps() const { return end - begin; }
};

class AtenSequence {
 public:
  // gates: in the rows of a weight (gates * C, channels, k, k).
  AtenSequence(const Layer& layer, int64_t gates, const at::Tensor& x, bool allow_tf32);

  const at::MemoryFormat format;
  const AtenConvolution convolution;

  bool channels_last() const { return format == at::MemoryFormat::ChannelsLast; }
  at::ScalarType accumulation_type() const { return accumulation_dtype(x_.scalar_type()); }
  at::TensorOptions accumulation() const { return x_.options().dtype(accumulation_type()); }
  std::array<int64_t, 4> state_shape() const { return {layer_.batch, layer_.channels, layer_.height, layer_.width}; }

  // Calls run(chunk) for all chunks, in the order of their steps, or from the last to the first.
  template <class Run>
  void for_each_chunk(const Run& run) const {
    for (int64_t begin = 0; begin < layer_.steps; begin += chunk_steps_) run(chunk_from(begin));
  }
  template <class Run>
  void for_each_chunk_backward(const Run& run) const {
    for (int64_t begin = (layer_.steps - 1) / chunk_steps_ * chunk_steps_; begin >= 0; begin -= chunk_steps_)
      run(chunk_from(begin));
  }

  at::Tensor operand(int64_t images, int64_t channels) const {
    return at::empty({images, channels, layer_.height, layer_.width}, x_.options().memory_format(format));
  }

  // The frames of a sequence (T, N, channels, H, W) as images: an operand.
  at::Tensor frames(const at::Tensor& sequence, const Chunk& chunk) const {
    return sequence.narrow(0, chunk.first, chunk.steps()).flatten(0, 1).contiguous(format);
  }

  // The images of frame t among those of the chunk.
  at::Tensor images(const at::Tensor& all, const Chunk& chunk, int64_t t) const {
    return all.narrow(0, (t - chunk.first) * layer_.batch, layer_.batch);
  }

  // h_{t-1} of every frame t of the chunk, as images: an operand.
  at::Tensor previous_states(const at::Tensor& output, const OptionalTensor& h_0, const Chunk& chunk) const;

  // sum += part, in the accumulation dtype; sum may be undefined.
  void add(at::Tensor& sum, const at::Tensor& part) const;

  // The same for the gradient of a weight. Without tensor cores frame by frame: cuDNN's deterministic algorithm adds
  // one product after the other, and in a sum over all frames the rounding errors are several times as large.
  void add_weight_gradient(at::Tensor& sum, const at::Tensor& grad, const at::Tensor& input,
                           const at::Tensor& weight) const;

  void add_bias_gradient(at::Tensor& sum, const at::Tensor& grad) const;

  // Stores the chunk's frames of the gradient of x (T, N, Cin, H, W).
  void store_x_gradient(const at::Tensor& grad_x, const Chunk& chunk, const at::Tensor& grad,
                        const at::Tensor& weight) const;

  // A sum, or nothing, as the op returns it.
  at::Tensor result(const at::Tensor& sum) const {
    return sum.defined() ? sum.to(x_.scalar_type()).contiguous() : at::empty({0}, x_.options());
  }

 private:
  Chunk chunk_from(int64_t begin) const;

  const Layer& layer_;
  const at::Tensor& x_;
  const int64_t chunk_steps_;
};

}  // namespace pdb::cuda
