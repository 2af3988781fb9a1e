// Memory for the packed weights of a forward call, or what an earlier call has left there (weight_cache.h).
#pragma once

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>
#include <vector>

#include "ops/weight_cache.h"

namespace pdb::cuda {

// How weights are packed, in addition to their shapes: the dtype, for a persistent launch or single steps, for tensor
// cores or not. The dtype is not a fixed property of a tensor object: module.half() changes it in place.
inline int64_t packed_kind(at::ScalarType dtype, bool persistent, bool tensor_cores) {
  return 4 * static_cast<int64_t>(dtype) + 2 * persistent + tensor_cores;
}

class WeightRoom {
 public:
  // is_inference: nothing is saved for backward. During graph capture the weights are always packed, in every replay,
  // since they may have changed by then.
  WeightRoom(std::vector<at::Tensor> weights, int64_t kind, int64_t elements, const at::TensorOptions& options,
             bool is_inference)
      : weights_(std::move(weights)),
        form_{kind, elements, c10::cuda::getCurrentCUDAStream().stream()},
        keeps_(is_inference && caches_weights() &&
               c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None) {
    if (keeps_) data_ = find_packed(weights_, form_);
    is_packed_ = data_.defined();
    if (!is_packed_) data_ = at::empty({elements}, options);
  }

  const at::Tensor& data() const { return data_; }
  bool is_packed() const { return is_packed_; }

  // To be called after the launches that fill the memory.
  void keep() const {
    if (keeps_ && !is_packed_) keep_packed(weights_, form_, data_);
  }

 private:
  std::vector<at::Tensor> weights_;
  PackedForm form_;
  bool keeps_, is_packed_ = false;
  at::Tensor data_;
};

}  // namespace pdb::cuda
