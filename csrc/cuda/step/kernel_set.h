// Which kernels a layer runs on: tensor cores if it asks for them and they fit, else plain fused multiply-adds.
#pragma once

#include <type_traits>

#include "cuda/step/gru_kernels.h"
#include "cuda/step/kernels.h"
#include "gate.h"

namespace pdb::cuda {

// Weights that one launch packs, one behind the other in a workspace.
template <class T>
class Packer {
 public:
  using A = accumulation_t<T>;

  explicit Packer(A* room) : room_(room) {}

  // Returns where the packed weight will be.
  const A* add(WeightToPack<T> weight) {
    weight.packed = room_;
    weights_[count_++] = weight;
    room_ += packed_size(weight);
    return weight.packed;
  }
  A* end() const { return room_; }
  int launch(Stream stream) const { return launch_pack_weights(weights_, count_, stream); }

 private:
  A* room_;
  WeightToPack<T> weights_[kMaxWeightsToPack] = {};
  int count_ = 0;
};

template <class T>
class Path {
 public:
  using A = accumulation_t<T>;

  Path(const Layer& layer, Stream stream = nullptr)
      : layer_(layer),
        stream_(stream),
        mma_(kCanMma && layer.tensor_cores && layer.kernel / 2 * layer.dilation <= kMmaMaxRadius) {}

  bool on_tensor_cores() const { return mma_; }

  // A weight (gates * C, channels, k, k) to be packed; as transposed the number of gates may be any.
  WeightToPack<T> weight(const T* data, int64_t channels, Packing packing, int64_t gates = kGateCount) const {
    return {data, gates * layer_.channels, channels, layer_.kernel, gates, packing, mma_, nullptr};
  }
  // The number of A's elements that it takes, packed.
  int64_t packed(int64_t channels, Packing packing, int64_t gates = kGateCount) const {
    return packed_size(weight(nullptr, channels, packing, gates));
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

  int gru_forward_half(GruHalf half, const GruForwardStep<T>& step) const {
    if constexpr (kCanMma)
      if (mma_) return launch_mma_gru_forward(layer_, half, step, stream_);
    return launch_gru_forward(layer_, half, step, stream_);
  }

  int gru_backward_half(GruHalf half, const GruBackwardStep<T>& step) const {
    if constexpr (kCanMma)
      if (mma_) return launch_mma_gru_backward(layer_, half, step, stream_);
    return launch_gru_backward(layer_, half, step, stream_);
  }

  int input_gradient(int64_t images, int64_t channels, const DataGradients<T>& gradients, T* grad_input,
                     int64_t gates = kGateCount) const {
    const int64_t rows = gates * layer_.channels;
    if constexpr (kCanMma)
      if (mma_) return launch_mma_input_gradient(layer_, images, rows, channels, gradients, grad_input, stream_);
    return launch_input_gradient(layer_, images, rows, channels, gradients, grad_input, stream_);
  }

 private:
  static constexpr bool kCanMma = !std::is_same_v<T, double>;

  const Layer& layer_;
  Stream stream_;
  bool mma_;
};

}  // namespace pdb::cuda
