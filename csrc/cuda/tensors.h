// From tensors to the pointers that the kernels take, for the bindings.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>

#include <optional>

#include "sequence.h"

namespace pdb::cuda {

inline at::ScalarType accumulation_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// Calls function(T{}) with the storage type of the dtype.
template <class Function>
void dispatch(at::ScalarType dtype, const Function& function) {
  switch (dtype) {
    case at::kFloat: return function(float{});
    case at::kDouble: return function(double{});
    case at::kHalf: return function(Half{});
    case at::kBFloat16: return function(BFloat16{});
    default:
      TORCH_CHECK(false, "convlstm: on CUDA, x must be float16, bfloat16, float32 or float64, got ", dtype);
  }
}

// Null for undefined tensors.
template <class T>
const T* read(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

template <class T>
const T* read(const std::optional<at::Tensor>& tensor) {
  return tensor ? read<T>(*tensor) : nullptr;
}

// Null also for the empty tensors that stand for "not wanted".
template <class T>
T* write(const at::Tensor& tensor) {
  return tensor.defined() && tensor.numel() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

template <class T>
PeepholeWeights<T> read_peephole(const std::optional<at::Tensor>& peephole) {
  if (!peephole) return {};
  return {read<T>(*peephole), {peephole->stride(0), peephole->stride(1), peephole->stride(2), peephole->stride(3)}};
}

inline void check_launch(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

}  // namespace pdb::cuda
