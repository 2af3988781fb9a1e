// The persistent kernels: one cooperative launch runs every step of several layers. Conventions as in sequence.h.
#pragma once

#include "cuda/layer.h"

namespace pdb::cuda {

// Layers that share a launch: `chains` independent ones, such as the branches of a pyramid, side by side, each of `depth`
// layers that run one after the other, such as the two of a bidirectional layer. layers[chain * depth + d]; layer d > 0
// takes the output of layer d - 1 as its x.
struct Chains {
  const Layer* layers;
  int chains, depth;
};

constexpr int kMaxPersistentLayers = 8;

// The weights of a launch as its kernel reads them; is_packed: by an earlier call with the same weights.
template <class T>
struct PackedWeights {
  accumulation_t<T>* data;
  bool is_packed;
};

// Elements of the workspace, or 0 if these layers cannot run in one launch: their blocks must all be resident at once,
// with the recurrent weight in shared memory, for they wait for each other. _packed: elements of PackedWeights::data.
template <class T>
int64_t persistent_forward_workspace(const Chains& chains);
template <class T>
int64_t persistent_forward_packed(const Chains& chains);

// tensors: of each layer, as `layers`; their own workspace and packed weights are not used.
template <class T>
int persistent_forward(const Chains& chains, const ForwardTensors<T>* tensors, const PackedWeights<T>& packed,
                       accumulation_t<T>* workspace, Stream stream);

template <class T>
int64_t persistent_backward_workspace(const Chains& chains);
template <class T>
int64_t persistent_backward_packed(const Chains& chains);

// What connects some of a layer's steps with the others, where a launch does not run all. Null where there are no others.
template <class T>
struct Connection {
  using A = accumulation_t<T>;
  const T* grad_gates_after;  // (N, 4C, H, W) of the step that ran after these
  const A* grad_c;            // (N, C, H, W): gradient of c behind these steps
  A* grad_c_before;           // (N, C, H, W): the same before them, where none of them is the layer's first; may be grad_c
  const A* c_before;          // (N, C, H, W): c before them, then
  int number, first_step;     // for messages: of the layer, as the caller counts, and of these steps
};

// Backward through time of all layers: fills grad_gates[layer] (T, N, 4C, H, W), the gradients of the pre-activations,
// and tensors[layer].grad_c_0 where wanted. The last layer of a chain comes first; grad_output of the others is what
// reaches their output from elsewhere than the layer behind. connections: of each layer, or null.
template <class T>
int persistent_backward(const Chains& chains, const BackwardTensors<T>* tensors, T* const* grad_gates,
                        const Connection<T>* connections, const PackedWeights<T>& packed, accumulation_t<T>* workspace,
                        Stream stream);

// backward() of several layers (sequence_backward.cpp), with one launch for all their steps, or one for some steps of the
// layers that run side by side (backward_in_chunks). Elements of the workspace, or 0 where they do not fit; and all
// gradients. grad_x is that of the layers d = 0, one array for all; of the others it is null: it goes into the layer before.
template <class T>
int64_t chains_backward_workspace(const Chains& chains, bool gates);

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* workspace, Stream stream);

}  // namespace pdb::cuda
