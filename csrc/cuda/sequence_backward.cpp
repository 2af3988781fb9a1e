// The time loop of backward, of a layer or of several in one launch, and what is batched over all steps behind it. Plain C++.
#include <algorithm>

#include "path.h"
#include "persistent.h"
#include "steps.h"

namespace pdb::cuda {
namespace {

template <class T>
int weight_h_gradient(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path,
                      const accumulation_t<T>* grad_gates, accumulation_t<T>* workspace) {
  // h_{t-1} is the output of the frame before t; frames without one read h_0.
  const int64_t state = layer.state(), images = (layer.steps - 1) * layer.batch;
  const ImagePairs<T> recurrent{tensors.output + (layer.reverse ? state : 0), grad_gates + (layer.reverse ? 0 : 4 * state),
                                images};
  const ImagePairs<T> initial{tensors.h_0, grad_gates + layer.first() * 4 * state, tensors.h_0 ? layer.batch : 0};
  return path.weight_gradient(layer.channels, recurrent, initial, tensors.grad_weight_h, workspace);
}

// Elements of the weights that recompute_gates packs.
template <class T>
int64_t recompute_workspace(const Layer& layer) {
  const Path<T> path(layer);
  return path.packed(layer.in_channels, Packing::gates) + path.packed(layer.channels, Packing::gates);
}

// The activated gates (T, N, 4, C, H, W) of all steps: with h and c known they do not wait for each other, so that one
// launch computes those of the first step and another one all others.
template <class T>
int recompute_gates(const Layer& layer, const BackwardTensors<T>& tensors, accumulation_t<T>* workspace,
                    accumulation_t<T>* gates, Stream stream) {
  const int64_t C = layer.channels, Cin = layer.in_channels, state = layer.state(), x_state = state / C * Cin;
  const Path<T> path(layer, stream);
  ForwardStep<T> step{};
  step.weight_x = workspace;
  step.weight_h = workspace + path.packed(Cin, Packing::gates);
  if (int error = path.pack(tensors.weight_x, Cin, Packing::gates, workspace)) return error;
  if (int error = path.pack(tensors.weight_h, C, Packing::gates, workspace + path.packed(Cin, Packing::gates))) return error;
  step.bias = tensors.bias;
  step.peephole = tensors.peephole;
  step.x = tensors.x + layer.first() * x_state;
  step.h_previous = tensors.h_0;
  step.c_0 = tensors.c_0;
  step.gates = gates + layer.first() * 4 * state;
  if (int error = path.forward_step(step)) return error;
  Layer others = layer;
  others.batch = (layer.steps - 1) * layer.batch;
  const int64_t begin = layer.reverse ? 0 : 1, previous = layer.reverse ? 1 : 0;  // their first frame, and that before it
  step.x = tensors.x + begin * x_state;
  step.h_previous = tensors.output + previous * state;
  step.c_previous = tensors.cells + previous * state;
  step.gates = gates + begin * 4 * state;
  return Path<T>(others, stream).forward_step(step);
}

// Computes the gates into `room` unless they were saved. That may be the place of their gradients: each step's gates are
// read for the last time just when their gradients are written.
template <class T>
int ensure_gates(const Layer& layer, BackwardTensors<T>& tensors, accumulation_t<T>* workspace, accumulation_t<T>* room,
                 Stream stream) {
  if (tensors.gates) return 0;
  if (int error = recompute_gates(layer, tensors, workspace, room, stream)) return error;
  tensors.gates = room;
  return 0;
}

// Fills grad_gates (T, N, 4C, H, W), step by step from the last to the first, and grad_c_0. tensors.gates may be grad_gates.
template <class T>
int backward_through_time(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path,
                          const accumulation_t<T>* weight_h, accumulation_t<T>* grad_gates,
                          accumulation_t<T>* grad_c) {
  const int64_t state = layer.state();
  BackwardStep<T> step{};
  step.weight_h = weight_h;
  step.peephole = tensors.peephole;
  step.grad_c_n = tensors.grad_c_n;
  step.grad_c = grad_c;
  for (int64_t s = layer.steps - 1; s >= 0; --s) {
    const int64_t t = frame(layer, s);
    step.grad_output = offset(tensors.grad_output, t * state);
    step.gates = tensors.gates + t * 4 * state;
    step.c = tensors.cells + t * state;
    step.c_previous = s > 0 ? tensors.cells + before(layer, t) * state : nullptr;
    step.c_0 = s > 0 ? nullptr : tensors.c_0;
    step.grad_c_0 = s > 0 ? nullptr : tensors.grad_c_0;
    step.grad_gates = grad_gates + t * 4 * state;
    if (int error = path.backward_step(step)) return error;
    step.grad_gates_next = step.grad_gates;
  }
  return 0;
}

// Everything that is batched over all steps once grad_gates is known.
template <class T>
int batched_gradients(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path,
                      const accumulation_t<T>* grad_gates, accumulation_t<T>* workspace, Stream stream) {
  const int64_t images = layer.steps * layer.batch;
  if (tensors.grad_weight_x) {
    const ImagePairs<T> pairs{tensors.x, grad_gates, images};
    if (int error = path.weight_gradient(layer.in_channels, pairs, ImagePairs<T>{}, tensors.grad_weight_x, workspace))
      return error;
  }
  if (tensors.grad_weight_h)
    if (int error = weight_h_gradient(layer, tensors, path, grad_gates, workspace)) return error;
  if (tensors.grad_bias)
    if (int error = launch_bias_gradient(layer, images, grad_gates, tensors.grad_bias, stream)) return error;
  if (tensors.grad_peephole)
    return launch_peephole_gradient(layer, grad_gates, tensors.cells, tensors.c_0, tensors.grad_peephole, stream);
  return 0;
}

// Elements of both weights packed for the data gradients, and of what the larger weight gradient works in.
template <class T>
int64_t packed_transposed(const Layer& layer, const Path<T>& path) {
  return path.packed(layer.channels, Packing::transposed) + path.packed(layer.in_channels, Packing::transposed);
}

int64_t weight_gradient_workspace(const Layer& layer) {
  const int64_t images = layer.steps * layer.batch;
  return std::max(pdb::cuda::weight_gradient_workspace(layer, images, layer.in_channels),
                  pdb::cuda::weight_gradient_workspace(layer, images, layer.channels));
}

// Elements of the workspace of a persistent launch of this layer; 0: it runs step by step.
template <class T>
int64_t persistent_backward_size(const Layer& layer) {
  return layer.persistent ? persistent_backward_workspace<T>({&layer, 1, 1}) : 0;
}

}  // namespace

template <class T>
int64_t backward_workspace(const Layer& given) {
  const Layer layer = with_bounded_dilation(given);
  // What backward through time works in is free again for the weight gradients, as are the weights that compute the gates.
  return packed_transposed(layer, Path<T>(layer)) + 4 * layer.steps * layer.state() +
         std::max({layer.state(), persistent_backward_size<T>(layer), recompute_workspace<T>(layer),
                   weight_gradient_workspace(layer)});
}

// Everything behind backward through time. weight: room for the packed weights of h and x; the former is there if
// `packed`.
template <class T>
int backward_rest(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path, bool packed,
                  accumulation_t<T>* weight, const accumulation_t<T>* grad_gates, accumulation_t<T>* partial,
                  Stream stream) {
  const int64_t C = layer.channels, Cin = layer.in_channels;
  if (tensors.grad_h_0) {
    if (!packed)
      if (int error = path.pack(tensors.weight_h, C, Packing::transposed, weight)) return error;
    const auto* const initial = grad_gates + layer.first() * 4 * layer.state();
    if (int error = path.input_gradient(layer.batch, C, initial, weight, tensors.grad_h_0)) return error;
  }
  if (tensors.grad_x) {
    auto* const weight_x = weight + path.packed(C, Packing::transposed);
    if (int error = path.pack(tensors.weight_x, Cin, Packing::transposed, weight_x)) return error;
    if (int error = path.input_gradient(layer.steps * layer.batch, Cin, grad_gates, weight_x, tensors.grad_x)) return error;
  }
  return batched_gradients(layer, tensors, path, grad_gates, partial, stream);
}

template <class T>
int backward(const Layer& given, const BackwardTensors<T>& given_tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer, stream);
  A* const weight = given_tensors.workspace;
  A* const grad_gates = weight + packed_transposed(layer, path);
  A* const partial = grad_gates + 4 * layer.steps * layer.state();
  BackwardTensors<T> tensors = given_tensors;
  if (int error = ensure_gates(layer, tensors, partial, grad_gates, stream)) return error;
  const bool persistent = persistent_backward_size<T>(layer) > 0;
  if (persistent) {
    if (int error = persistent_backward({&layer, 1, 1}, &tensors, &grad_gates, partial, stream)) return error;
  } else {
    if (int error = path.pack(tensors.weight_h, layer.channels, Packing::transposed, weight)) return error;
    if (int error = backward_through_time(layer, tensors, path, weight, grad_gates, partial)) return error;
  }
  return backward_rest(layer, tensors, path, !persistent, weight, grad_gates, partial, stream);
}

// The workspace holds the gate gradients of all layers, the packed weights of one, and what backward through time and
// then each weight gradient works in.
template <class T>
int64_t chains_backward_workspace(const Chains& chains) {
  int64_t partial = persistent_backward_workspace<T>(chains), packed = 0;
  if (partial == 0) return 0;
  const int count = chains.chains * chains.depth;
  for (int i = 0; i < count; ++i) {
    const Layer layer = with_bounded_dilation(chains.layers[i]);
    packed = std::max(packed, packed_transposed(layer, Path<T>(layer)));
    partial = std::max({partial, recompute_workspace<T>(layer), weight_gradient_workspace(layer)});
  }
  return packed + count * 4 * chains.layers[0].steps * chains.layers[0].state() + partial;
}

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* given, accumulation_t<T>* workspace, Stream stream) {
  using A = accumulation_t<T>;
  const int count = chains.chains * chains.depth;
  int64_t packed = 0;
  Layer layers[kMaxPersistentLayers] = {};
  for (int i = 0; i < count; ++i) {
    layers[i] = with_bounded_dilation(chains.layers[i]);
    packed = std::max(packed, packed_transposed(layers[i], Path<T>(layers[i])));
  }
  A* const weight = workspace;
  A* grad_gates[kMaxPersistentLayers] = {};
  for (int i = 0; i < count; ++i) grad_gates[i] = workspace + packed + i * 4 * layers[0].steps * layers[0].state();
  A* const partial = workspace + packed + count * 4 * layers[0].steps * layers[0].state();
  BackwardTensors<T> tensors[kMaxPersistentLayers] = {};
  for (int i = 0; i < count; ++i) {
    tensors[i] = given[i];
    if (int error = ensure_gates(layers[i], tensors[i], partial, grad_gates[i], stream)) return error;
  }
  if (int error = persistent_backward(chains, tensors, grad_gates, partial, stream)) return error;
  for (int i = 0; i < count; ++i) {
    const Path<T> path(layers[i], stream);
    if (int error = backward_rest(layers[i], tensors[i], path, false, weight, grad_gates[i], partial, stream)) return error;
  }
  return 0;
}

#define INSTANTIATE(T)                                                    \
  template int64_t backward_workspace<T>(const Layer&);                   \
  template int backward(const Layer&, const BackwardTensors<T>&, Stream); \
  template int64_t chains_backward_workspace<T>(const Chains&);           \
  template int chains_backward(const Chains&, const BackwardTensors<T>*, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
