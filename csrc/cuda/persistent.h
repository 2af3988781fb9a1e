// The persistent kernels: one cooperative launch runs every step of several layers. Conventions as in sequence.h.
#pragma once

#include "sequence.h"

namespace pdb::cuda {

// Layers that share a launch: `chains` independent ones, such as the branches of a pyramid, side by side, each of `depth`
// layers that run one after the other, such as the two of a bidirectional layer. layers[chain * depth + d]; layer d > 0
// takes the output of layer d - 1 as its x.
struct Chains {
  const Layer* layers;
  int chains, depth;
};

constexpr int kMaxPersistentLayers = 8;

// Elements of the workspace, or 0 if these layers cannot run in one launch: their blocks must all be resident at once,
// with the recurrent weight in shared memory, for they wait for each other.
template <class T>
int64_t persistent_forward_workspace(const Chains& chains);

// tensors: of each layer, as `layers`; their own workspace is not used.
template <class T>
int persistent_forward(const Chains& chains, const ForwardTensors<T>* tensors, accumulation_t<T>* workspace,
                       Stream stream);

template <class T>
int64_t persistent_backward_workspace(const Chains& chains);

// Backward through time of all layers: fills grad_gates[layer] (T, N, 4C, H, W), the gradients of the pre-activations,
// and tensors[layer].grad_c_0 where wanted. The last layer of a chain comes first; grad_output of the others is what
// reaches their output from elsewhere than the layer behind.
template <class T>
int persistent_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* const* grad_gates,
                        accumulation_t<T>* workspace, Stream stream);

// backward() of several layers with one launch for all their steps (sequence_backward.cpp). Elements of the workspace, or
// 0; and all gradients. grad_x of the layers d > 0 is null: it goes into the layer before.
template <class T>
int64_t chains_backward_workspace(const Chains& chains);

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* workspace, Stream stream);

}  // namespace pdb::cuda
