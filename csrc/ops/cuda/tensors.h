// CUDA tensors in the form that the kernels take (cuda/common/layer.h).
#pragma once

#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <torch/version.h>

#include <climits>

#include "cuda/common/device.h"
#include "cuda/common/layer.h"
#include "cuda/gates/layout.h"
#include "ops/check_layer.h"

namespace pdb::cuda {

inline at::ScalarType accumulation_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

// PyTorch's own setting for float32 convolutions, torch.backends.cudnn.conv.fp32_precision or .allow_tf32.
inline bool allow_tf32() {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 11
  return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
#else
  return at::globalContext().allowTF32CuDNN();
#endif
}

// The layer with tensor_cores set; `persistent` is set later, when the path is chosen.
inline Layer on_device(Layer layer, at::ScalarType dtype, const Device& device) {
  TORCH_CHECK(layer.height <= INT_MAX && layer.width <= INT_MAX, "pdb_ext: on CUDA, H and W must be below 2^31, got ",
              layer.height, " and ", layer.width);
  const bool can_mma = dtype != at::kDouble && (dtype != at::kFloat || allow_tf32());
  layer.tensor_cores = can_mma && (device.has_tensor_cores() || !device.has_kernels());
  return layer;
}

inline Layout layout_of(at::MemoryFormat format) {
  return format == at::MemoryFormat::ChannelsLast ? Layout::channels_last : Layout::contiguous;
}

inline OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

// Calls function(T{}) with the storage type of the dtype.
template <class Function>
void dispatch(at::ScalarType dtype, const Function& function) {
  switch (dtype) {
    case at::kFloat: return function(float{});
    case at::kDouble: return function(double{});
    case at::kHalf: return function(Half{});
    case at::kBFloat16: return function(BFloat16{});
    default: TORCH_CHECK(false, "pdb_ext: on CUDA, x must be float16, bfloat16, float32 or float64, got ", dtype);
  }
}

// Null for undefined tensors.
template <class T>
const T* read(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

template <class T>
const T* read(const OptionalTensor& tensor) {
  return tensor ? read<T>(*tensor) : nullptr;
}

// Null also for an empty tensor, which means "not wanted".
template <class T>
T* write(const at::Tensor& tensor) {
  return tensor.defined() && tensor.numel() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

template <class T>
PeepholeWeights<T> read_peephole(const OptionalTensor& peephole) {
  if (!peephole) return {};
  return {read<T>(*peephole), peephole->stride(0), peephole->stride(1), peephole->stride(2), peephole->stride(3)};
}

inline void check_launch(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

}  // namespace pdb::cuda
