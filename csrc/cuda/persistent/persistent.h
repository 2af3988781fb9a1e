// The persistent kernels: one cooperative launch runs every step of several layers. Conventions: cuda/common/layer.h.
#pragma once

#include "cuda/common/layer.h"

namespace pdb::cuda {

// Layers that share a launch: `chains` independent chains side by side, such as the branches of a pyramid, each of
// `depth` layers that run one after the other, such as the two of a bidirectional layer. layers[chain * depth + d];
// layer d > 0 takes the output of layer d - 1 as its x.
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

// Elements of the workspace, or 0 if these layers cannot run in one launch: their blocks wait for each other, and so
// must all be resident at once, with the recurrent weight in shared memory. _packed: elements of PackedWeights::data.
template <class T>
int64_t persistent_forward_workspace(const Chains& chains);
template <class T>
int64_t persistent_forward_packed(const Chains& chains);

// tensors: those of each layer, as `layers`; their own workspace and packed weights are not used.
template <class T>
int persistent_forward(const Chains& chains, const ForwardTensors<T>* tensors, const PackedWeights<T>& packed,
                       accumulation_t<T>* workspace, Stream stream);

template <class T>
int64_t persistent_backward_workspace(const Chains& chains);
template <class T>
int64_t persistent_backward_packed(const Chains& chains);

// Connects the steps of a launch with a layer's other steps, if the launch does not run all. Null if there are no
// others.
template <class T>
struct Connection {
  using A = accumulation_t<T>;
  const T* grad_gates_after;  // (N, 4C, H, W) of the step that ran after these steps
  const A* grad_c;            // (N, C, H, W): gradient of c after these steps
  A* grad_c_before;           // (N, C, H, W): that before them, unless they include the layer's first; may be grad_c
  const A* c_before;          // (N, C, H, W): in that case also c before them
  int number, first_step;     // for messages: the layer's number, as the caller counts, and the first of these steps
};

// Backward through time of all layers: fills grad_gates[layer] (T, N, 4C, H, W), the gradients of the pre-activations,
// and tensors[layer].grad_c_0 if needed. The last layer of a chain runs first; grad_output of the others is what
// reaches their output from elsewhere than the next layer. connections: those of each layer, or null.
template <class T>
int persistent_backward(const Chains& chains, const BackwardTensors<T>* tensors, T* const* grad_gates,
                        const Connection<T>* connections, const PackedWeights<T>& packed, accumulation_t<T>* workspace,
                        Stream stream);

// backward() of several layers (cuda/backward.cpp), with one launch for all their steps, or, in chunks
// (backward_in_chunks), one launch for some steps of the layers that run side by side. Returns the elements of the
// workspace, or 0 if the layers do not fit. grad_x belongs to the layers d = 0, one array for all; it is null in the
// others, whose gradient goes to the layer before.
template <class T>
int64_t chains_backward_workspace(const Chains& chains, bool gates);

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* workspace,
                    Stream stream);

}  // namespace pdb::cuda
