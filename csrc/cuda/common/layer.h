// One ConvLSTM layer over a whole sequence on a GPU, forward and backward. No torch and no CUDA header: the only
// interface between the kernels and their callers.
//
// All arrays lie in device memory; batch is at least 1. A is accumulation_t<T>: float, or double for double. Every
// function returns a cudaError_t (0: success), works asynchronously on `stream`, allocates nothing and never waits for
// the device.
#pragma once

#include <cstdint>

#include "cuda/common/dtype.h"
#include "layer_arguments.h"

struct CUstream_st;

namespace pdb::cuda {

using Stream = CUstream_st*;  // cudaStream_t

template <class T>
struct ForwardTensors : ForwardArrays<T, accumulation_t<T>, const T*> {
  using A = accumulation_t<T>;
  A* packed;       // forward_packed<T>(layer) elements: the weights as the kernels read them
  bool is_packed;  // by an earlier call with the same weights; otherwise this call packs them
  A* workspace;    // forward_workspace<T>(layer, cells) elements; like `packed` aligned to 16 bytes
};

template <class T>
int64_t forward_packed(const Layer& layer);

// cells: whether the cells are stored.
template <class T>
int64_t forward_workspace(const Layer& layer, bool cells);

template <class T>
int forward(const Layer& layer, const ForwardTensors<T>& tensors, Stream stream);

// Where several layers share the array grad_x, it receives their sum.
template <class T>
struct BackwardTensors : BackwardArrays<T, accumulation_t<T>, const T*> {
  using A = accumulation_t<T>;
  const T* grad_x_before;  // (T, N, Cin, H, W), added to grad_x; or null
  A* workspace;            // backward_workspace<T>(layer, gates) elements, aligned to 16 bytes
};

// Elements of BackwardTensors::workspace; gates: whether they are saved.
template <class T>
int64_t backward_workspace(const Layer& layer, bool gates);

// Whether backward takes a few steps at a time to save memory: over long sequences whose gates were not saved, for the
// same reason.
bool backward_in_chunks(const Layer& layer, bool gates);

template <class T>
int backward(const Layer& layer, const BackwardTensors<T>& tensors, Stream stream);

// Parts of a workspace, which begin at whole 16 bytes: how many values of type accumulation_t<T> hold `elements` values
// of type T, or of their own type.
template <class T>
int64_t units(int64_t elements) {
  return (elements * int64_t(sizeof(T)) + 15) / 16 * int64_t(16 / sizeof(accumulation_t<T>));
}
inline int64_t whole(int64_t elements) { return (elements + 3) / 4 * 4; }
// The first elements of what is left of it.
template <class A>
A* take(A*& room, int64_t elements) {
  return room += elements, room - elements;
}

// An optional array from this element on.
template <class P>
P* offset(P* array, int64_t elements) {
  return array ? array + elements : nullptr;
}

}  // namespace pdb::cuda
