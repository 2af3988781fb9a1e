// See aten_sequence.h.
#include "ops/cuda/aten_sequence.h"

#include <algorithm>

namespace pdb::cuda {
namespace {

constexpr int64_t kChunkBytes = 256 << 20;  // of one array (steps, N, gates * C, H, W)

}  // namespace

AtenSequence::AtenSequence(const Layer& layer, int64_t gates, const at::Tensor& x, bool allow_tf32)
    // cuDNN's tensor-core convolutions work on channels_last; given the other order it converts in every call.
    : format(layer.tensor_cores ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous),
      convolution{layer.kernel / 2 * layer.dilation, layer.dilation, format, allow_tf32},
      layer_(layer),
      x_(x),
      chunk_steps_(std::clamp<int64_t>(kChunkBytes / (gates * layer.state() * x.element_size()), 1, layer.steps)) {}

at::Tensor AtenSequence::previous_states(const at::Tensor& output, const OptionalTensor& h_0,
                                         const Chunk& chunk) const {
  const at::Tensor result = operand(chunk.steps() * layer_.batch, layer_.channels);
  for (int64_t s = chunk.begin; s < chunk.end; ++s) {
    const at::Tensor target = images(result, chunk, layer_.frame(s));
    if (s > 0)
      target.copy_(output[layer_.frame(s - 1)]);
    else if (h_0)
      target.copy_(*h_0);
    else
      target.zero_();
  }
  return result;
}

void AtenSequence::add(at::Tensor& sum, const at::Tensor& part) const {
  const at::Tensor wide = part.to(accumulation_type());
  sum = sum.defined() ? sum.add(wide) : wide;
}

void AtenSequence::add_weight_gradient(at::Tensor& sum, const at::Tensor& grad, const at::Tensor& input,
                                       const at::Tensor& weight) const {
  const int64_t all = grad.size(0), some = layer_.tensor_cores ? all : layer_.batch;
  for (int64_t i = 0; i < all; i += some)
    add(sum, convolution.weight_gradient(grad.narrow(0, i, some), input.narrow(0, i, some), weight));
}

void AtenSequence::add_bias_gradient(at::Tensor& sum, const at::Tensor& grad) const {
  add(sum, grad.sum(at::IntArrayRef({0, 2, 3}), /*keepdim=*/false, accumulation_type()));
}

void AtenSequence::store_x_gradient(const at::Tensor& grad_x, const Chunk& chunk, const at::Tensor& grad,
                                    const at::Tensor& weight) const {
  grad_x.narrow(0, chunk.first, chunk.steps()).flatten(0, 1).copy_(convolution.data_gradient(grad, weight));
}

Chunk AtenSequence::chunk_from(int64_t begin) const {
  const int64_t end = std::min(begin + chunk_steps_, layer_.steps);
  return {begin, end, layer_.reverse ? layer_.steps - end : begin};
}

}  // namespace pdb::cuda
