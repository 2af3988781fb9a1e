// The time loops of the CUDA implementation: which kernel runs on which part of which array. Plain C++.
#include "sequence.h"

#include <algorithm>

#include "path.h"
#include "persistent.h"

namespace pdb::cuda {
namespace {

// The frame of the s-th step that runs, and the frame of the step that ran before t.
int64_t frame(const Layer& layer, int64_t s) { return layer.reverse ? layer.steps - 1 - s : s; }
int64_t before(const Layer& layer, int64_t t) { return layer.reverse ? t + 1 : t - 1; }

// Beyond the larger image side every tap but the centre lies outside the image, whatever the dilation: bounded by it,
// no offset can overflow.
Layer with_bounded_dilation(Layer layer) {
  layer.dilation = std::min(layer.dilation, std::max(layer.height, layer.width));
  return layer;
}

template <class P>
P* offset(P* array, int64_t elements) {
  return array ? array + elements : nullptr;
}

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

// Fills grad_gates (T, N, 4C, H, W), step by step from the last to the first, and grad_c_0.
template <class T>
int backward_through_time(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path,
                          const accumulation_t<T>* weight_h, accumulation_t<T>* grad_gates, accumulation_t<T>* grad_c) {
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

}  // namespace

template <class T>
int64_t forward_workspace(const Layer& given, bool save) {
  const Layer layer = with_bounded_dilation(given);
  if (const int64_t size = persistent_forward_workspace<T>({&layer, 1, 1})) return size;
  const Path<T> path(layer);
  return path.packed(layer.in_channels, Packing::gates) + path.packed(layer.channels, Packing::gates) +
         (save ? 0 : layer.state());
}

template <class T>
int forward(const Layer& given, const ForwardTensors<T>& tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  if (persistent_forward_workspace<T>({&layer, 1, 1}))
    return persistent_forward({&layer, 1, 1}, &tensors, tensors.workspace, stream);
  const Path<T> path(layer, stream);
  const int64_t C = layer.channels, Cin = layer.in_channels, state = layer.state();
  A* const weight_x = tensors.workspace;
  A* const weight_h = weight_x + path.packed(Cin, Packing::gates);
  A* const running_c = weight_h + path.packed(C, Packing::gates);  // where the steps' cell states are not kept
  if (int error = path.pack(tensors.weight_x, Cin, Packing::gates, weight_x)) return error;
  if (int error = path.pack(tensors.weight_h, C, Packing::gates, weight_h)) return error;

  ForwardStep<T> step{};
  step.weight_x = weight_x;
  step.weight_h = weight_h;
  step.bias = tensors.bias;
  step.peephole = tensors.peephole;
  step.h_previous = tensors.h_0;
  step.c_0 = tensors.c_0;
  for (int64_t s = 0; s < layer.steps; ++s) {
    const int64_t t = frame(layer, s);
    step.x = tensors.x + t * layer.batch * Cin * layer.pixels();
    step.h = tensors.output + t * state;
    step.c = tensors.cells ? tensors.cells + t * state : running_c;
    step.c_n = s == layer.steps - 1 ? tensors.c_n : nullptr;
    step.gates = offset(tensors.gates, t * 4 * state);
    if (int error = path.forward_step(step)) return error;
    step.h_previous = step.h;
    step.c_previous = step.c;
  }
  return 0;
}

template <class T>
int64_t backward_workspace(const Layer& given) {
  const Layer layer = with_bounded_dilation(given);
  // What backward through time works in is free again for the weight gradients.
  return packed_transposed(layer, Path<T>(layer)) + 4 * layer.steps * layer.state() +
         std::max({layer.state(), persistent_backward_workspace<T>({&layer, 1, 1}), weight_gradient_workspace(layer)});
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
int backward(const Layer& given, const BackwardTensors<T>& tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer, stream);
  A* const weight = tensors.workspace;
  A* const grad_gates = weight + packed_transposed(layer, path);
  A* const partial = grad_gates + 4 * layer.steps * layer.state();
  const bool persistent = persistent_backward_workspace<T>({&layer, 1, 1}) > 0;
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
    partial = std::max(partial, weight_gradient_workspace(layer));
  }
  return packed + count * 4 * chains.layers[0].steps * chains.layers[0].state() + partial;
}

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* workspace, Stream stream) {
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
  if (int error = persistent_backward(chains, tensors, grad_gates, partial, stream)) return error;
  for (int i = 0; i < count; ++i) {
    const Path<T> path(layers[i], stream);
    if (int error = backward_rest(layers[i], tensors[i], path, false, weight, grad_gates[i], partial, stream)) return error;
  }
  return 0;
}

#define INSTANTIATE(T)                                                    \
  template int64_t forward_workspace<T>(const Layer&, bool);              \
  template int forward(const Layer&, const ForwardTensors<T>&, Stream);   \
  template int64_t backward_workspace<T>(const Layer&);                   \
  template int backward(const Layer&, const BackwardTensors<T>&, Stream); \
  template int64_t chains_backward_workspace<T>(const Chains&);           \
  template int chains_backward(const Chains&, const BackwardTensors<T>*, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
