// Backward of a layer, or of several in one launch: which kernel runs on which part of which array. Plain C++.
#include <algorithm>

#include "backward_steps.h"
#include "persistent.h"

namespace pdb::cuda {
namespace {

// Without saved gates, over more than three chunks, memory is what matters: gate gradients are kept of two chunks only.
constexpr int64_t kChunkSteps = 3;

// Elements of the workspace of a persistent launch of this layer; 0: it runs step by step.
template <class T>
int64_t persistent_backward_size(const Layer& layer, bool gates) {
  return layer.persistent && !backward_in_chunks(layer, gates) ? persistent_backward_workspace<T>({&layer, 1, 1}) : 0;
}

// The parts of the workspace, in elements, in this order.
template <class T>
struct Rooms {
  bool chunks;
  int64_t weights, grad_gates, grad_c, sums, gates_weights, work;

  Rooms(const Layer& layer, bool gates) : chunks(backward_in_chunks(layer, gates)) {
    const Path<T> path(layer);
    const int64_t steps = chunks ? kChunkSteps : layer.steps;
    weights = packed_transposed(layer, path);
    grad_gates = (chunks ? 2 : 1) * 4 * steps * layer.state();
    grad_c = layer.state();
    sums = chunks ? Sums<T>::size(layer) : 0;
    sums = (sums + 3) / 4 * 4;  // whole chunks of 16 bytes behind it
    grad_c = (grad_c + 3) / 4 * 4;
    gates_weights = gates ? 0 : packed_gates(layer, path);
    work = std::max(persistent_backward_size<T>(layer, gates), weight_gradient_workspace(layer, steps));
  }

  int64_t all() const { return weights + grad_gates + grad_c + sums + gates_weights + work; }
};

}  // namespace

bool backward_in_chunks(const Layer& layer, bool gates) { return !gates && layer.steps > 3 * kChunkSteps; }

template <class T>
int64_t backward_workspace(const Layer& given, bool gates) {
  return Rooms<T>(with_bounded_dilation(given), gates).all();
}

template <class T>
int backward(const Layer& given, const BackwardTensors<T>& tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer, stream);
  const bool saved = tensors.gates != nullptr, persistent = persistent_backward_size<T>(layer, saved) > 0;
  const Rooms<T> rooms(layer, saved);
  A* const weights = tensors.workspace;
  A* const room = weights + rooms.weights;
  A* const grad_c = room + rooms.grad_gates;
  A* const gates_weights = grad_c + rooms.grad_c + rooms.sums;
  A* const work = gates_weights + rooms.gates_weights;
  Sums<T> sums = rooms.chunks ? Sums<T>(layer, grad_c + rooms.grad_c) : Sums<T>();

  if (int error = pack_transposed(layer, tensors, path, !persistent, weights)) return error;
  if (!saved)
    if (int error = pack_gates(layer, tensors, path, gates_weights)) return error;
  A* grad_gates = room;
  const A* after = nullptr;
  for (int64_t end = layer.steps; end > 0;) {
    const Steps steps(layer, rooms.chunks ? std::max<int64_t>(end - kChunkSteps, 0) : 0, end);
    // Gates that are computed again lie where their gradients will: each is read for the last time just when its gradient
    // is written.
    if (!saved)
      if (int error = recompute_gates(layer, tensors, steps, gates_weights, grad_gates, stream)) return error;
    const A* const gates = saved ? tensors.gates : grad_gates;
    if (persistent) {
      BackwardTensors<T> all = tensors;
      all.gates = gates;
      if (int error = persistent_backward({&layer, 1, 1}, &all, &grad_gates, work, stream)) return error;
    } else if (int error = backward_through_time<T>(layer, tensors, path, steps,
                                                    {weights, gates, grad_gates, after, grad_c})) {
      return error;
    }
    sums.ends = steps.begin == 0;
    if (int error = batched_gradients(layer, tensors, path, steps, grad_gates, weights, sums, work, stream)) return error;
    sums.begun = true;
    after = grad_gates + (frame(layer, steps.begin) - steps.first) * 4 * layer.state();
    grad_gates = grad_gates == room ? room + rooms.grad_gates / 2 : room;  // the next step still reads these
    end = steps.begin;
  }
  return 0;
}

// The workspace holds the gate gradients of all layers, the packed weights of one, and what each part works in.
template <class T>
int64_t chains_backward_workspace(const Chains& chains) {
  int64_t work = persistent_backward_workspace<T>(chains), packed = 0;
  if (work == 0) return 0;
  const int count = chains.chains * chains.depth;
  for (int i = 0; i < count; ++i) {
    const Layer layer = with_bounded_dilation(chains.layers[i]);
    const Path<T> path(layer);
    packed = std::max(packed, packed_transposed(layer, path));
    work = std::max({work, packed_gates(layer, path), weight_gradient_workspace(layer, layer.steps)});
  }
  return packed + count * 4 * chains.layers[0].steps * chains.layers[0].state() + work;
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
  A* const weights = workspace;
  A* grad_gates[kMaxPersistentLayers] = {};
  for (int i = 0; i < count; ++i) grad_gates[i] = workspace + packed + i * 4 * layers[0].steps * layers[0].state();
  A* const work = workspace + packed + count * 4 * layers[0].steps * layers[0].state();
  BackwardTensors<T> tensors[kMaxPersistentLayers] = {};
  for (int i = 0; i < count; ++i) {
    tensors[i] = given[i];
    if (tensors[i].gates) continue;
    const Steps all(layers[i], 0, layers[i].steps);
    if (int error = pack_gates(layers[i], tensors[i], Path<T>(layers[i], stream), work)) return error;
    if (int error = recompute_gates(layers[i], tensors[i], all, work, grad_gates[i], stream)) return error;
    tensors[i].gates = grad_gates[i];
  }
  if (int error = persistent_backward(chains, tensors, grad_gates, work, stream)) return error;
  for (int i = 0; i < count; ++i) {
    const Path<T> path(layers[i], stream);
    const Steps all(layers[i], 0, layers[i].steps);
    if (int error = pack_transposed(layers[i], tensors[i], path, false, weights)) return error;
    if (int error = batched_gradients(layers[i], tensors[i], path, all, grad_gates[i], weights, Sums<T>(), work, stream))
      return error;
  }
  return 0;
}

#define INSTANTIATE(T)                                                    \
  template int64_t backward_workspace<T>(const Layer&, bool);             \
  template int backward(const Layer&, const BackwardTensors<T>&, Stream); \
  template int64_t chains_backward_workspace<T>(const Chains&);           \
  template int chains_backward(const Chains&, const BackwardTensors<T>*, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
