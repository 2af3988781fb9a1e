// Which kernels a layer runs on: tensor cores where it asks for them and they fit, else plain fused multiply-adds.
#pragma once

#include <type_traits>

#include "kernels.h"

namespace pdb::cuda {

template <class T>
class Path {
 public:
  using A = accumulation_t<T>;

  Path(const Layer& layer, Stream stream = nullptr)
      : layer_(layer), stream_(stream), mma_(layer.tensor_cores && layer.kernel / 2 * layer.dilation <= kMmaMaxRadius) {}

  // Elements of A of a packed weight (4C, channels, k, k).
  int64_t packed(int64_t channels, Packing packing) const {
    const int64_t rows = 4 * layer_.channels;
    if constexpr (kCanMma)
      if (mma_) return mma_packed_size<T>(rows, channels, layer_.kernel, packing);
    const bool gates = packing == Packing::gates;
    return (gates ? channels : rows) * layer_.taps() * packed_pitch(gates ? rows : channels);
  }

  int pack(const T* weight, int64_t channels, Packing packing, A* packed) const {
    const int64_t rows = 4 * layer_.channels;
    if constexpr (kCanMma)
      if (mma_) return launch_mma_pack_weight(weight, rows, channels, layer_.kernel, packing, packed, stream_);
    return launch_pack_weight(weight, rows, channels, layer_.kernel, packing, packed, stream_);
  }

  int forward_step(const ForwardStep<T>& step) const {
    if constexpr (kCanMma)
      if (mma_) return launch_mma_forward_step(layer_, step, stream_);
    return launch_forward_step(layer_, step, stream_);
  }

  int backward_step(const BackwardStep<T>& step) const {
    if constexpr (kCanMma)
      if (mma_) return launch_mma_backward_step(layer_, step, stream_);
    return launch_backward_step(layer_, step, stream_);
  }

  int input_gradient(int64_t images, int64_t channels, const A* grad_gates, const A* weight, T* grad_input) const {
    if constexpr (kCanMma)
      if (mma_) return launch_mma_input_gradient(layer_, images, channels, grad_gates, weight, grad_input, stream_);
    return launch_input_gradient(layer_, images, channels, grad_gates, weight, grad_input, stream_);
  }

  // grad_weight = before (or null) + the sum over the images, in R = T or A. partial: weight_gradient_workspace() elements.
  template <class R>
  int weight_gradient(int64_t channels, const ImagePairs<T>& first, const ImagePairs<T>& second, const A* before,
                      R* grad_weight, A* partial) const {
    if (int error = weight_products(channels, first, second, partial)) return error;
    const int64_t splits = weight_gradient_splits(layer_, first.images + second.images, channels);
    return launch_add_splits(before, partial, splits, 4 * layer_.channels * channels * layer_.taps(), grad_weight, stream_);
  }

 private:
  static constexpr bool kCanMma = !std::is_same_v<T, double>;

  // Has no halo in shared memory, so that any dilation will do for tensor cores.
  int weight_products(int64_t channels, const ImagePairs<T>& first, const ImagePairs<T>& second, A* partial) const {
    if constexpr (kCanMma)
      if (layer_.tensor_cores) return launch_mma_weight_gradient(layer_, channels, first, second, partial, stream_);
    return launch_weight_gradient(layer_, channels, first, second, partial, stream_);
  }

  const Layer& layer_;
  Stream stream_;
  bool mma_;
};

}  // namespace pdb::cuda
