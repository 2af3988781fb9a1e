// CPU tensors and PyTorch's threads in the form that the kernels take (cpu/layer.h), and the record of a call.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "cpu/kernels/kernels.h"
#include "cpu/plan.h"
#include "ops/calls.h"
#include "ops/convlstm.h"

namespace pdb::cpu {

inline Threads torch_threads() {
  const ParallelFor parallel_for = [](int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
    at::parallel_for(0, size, grain, body);
  };
  return {parallel_for, at::get_num_threads()};
}

inline OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

template <class T>
const T* read(const OptionalTensor& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

// Null for an empty tensor, which means "not wanted".
template <class T>
T* write(const at::Tensor& tensor) {
  return tensor.numel() ? tensor.mutable_data_ptr<T>() : nullptr;
}

template <class T>
Frames<const T> read_frames(const OptionalTensor& t) {
  if (!t) return {};
  return {t->const_data_ptr<T>(), t->stride(0), t->stride(1), t->stride(2), t->stride(3), t->stride(4)};
}

inline void note(const char* op, const Layer& layer, int64_t gate_count) {
  if (layer.batch == 0) return;
  const char* form = use_winograd(layer, gate_count) ? "winograd"
                     : divides_by_rows(layer)        ? "direct by rows"
                                                     : "direct";
  record_call({op, "cpu", kernels<float>().name, form, 1, false});
}

}  // namespace pdb::cpu
