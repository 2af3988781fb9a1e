// One ConvGRU layer over a whole sequence on a GPU, forward and backward. Conventions as in cuda/common/layer.h.
#pragma once

#include "cuda/common/layer.h"
#include "gru_arguments.h"

namespace pdb::cuda {

template <class T>
struct GruForwardTensors : GruForwardArrays<T, const T*> {
  using A = accumulation_t<T>;
  A* packed;       // gru_forward_packed<T>(layer) elements: the weights as the kernels read them
  bool is_packed;  // by an earlier call with the same weights; otherwise this call packs them
  A* workspace;    // gru_forward_workspace<T>(layer) elements; like `packed` aligned to 16 bytes
};

template <class T>
int64_t gru_forward_packed(const Layer& layer);

template <class T>
int64_t gru_forward_workspace(const Layer& layer);

template <class T>
int gru_forward(const Layer& layer, const GruForwardTensors<T>& tensors, Stream stream);

template <class T>
struct GruBackwardTensors : GruBackwardArrays<T, const T*> {
  accumulation_t<T>* workspace;  // gru_backward_workspace<T>(layer) elements, aligned to 16 bytes
};

template <class T>
int64_t gru_backward_workspace(const Layer& layer);

template <class T>
int gru_backward(const Layer& layer, const GruBackwardTensors<T>& tensors, Stream stream);

}  // namespace pdb::cuda
