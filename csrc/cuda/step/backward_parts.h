// The parts of one layer's backward pass over some of its steps: through time, and what is batched over these steps
// afterwards.
#pragma once

#include <algorithm>
#include <tuple>

#include "cuda/step/kernel_set.h"

namespace pdb::cuda {

// Steps [begin, end) in the order in which they run; `first` is the first of their frames.
struct Steps {
  int64_t begin, end, first;

  Steps(const Layer& layer, int64_t begin, int64_t end)
      : begin(begin), end(end), first(layer.reverse ? layer.steps - end : begin) {}

  int64_t count() const { return end - begin; }
};

// Those of the steps that are not the layer's first: how many, and the first of their frames.
struct LaterSteps {
  int64_t count, first;

  LaterSteps(const Layer& layer, const Steps& steps)
      : count(steps.end - std::max<int64_t>(steps.begin, 1)),
        first(layer.reverse ? steps.first : std::max<int64_t>(steps.begin, 1)) {}
};

// The activated gates (steps, N, 4, C, H, W): with h and c known the steps do not wait for each other, so that one
// launch computes those of the layer's first step and another one all others. The weights are packed as gates.
template <class T>
int recompute_gates(const Layer& layer, const BackwardTensors<T>& tensors, const Steps& steps,
                    const accumulation_t<T>* weight_x, const accumulation_t<T>* weight_h, T* gates, Stream stream) {
  const int64_t state = layer.state(), x_state = state / layer.channels * layer.in_channels;
  ForwardStep<T> step{};
  step.weight_x = weight_x;
  step.weight_h = weight_h;
  step.bias = tensors.bias;
  step.peephole = tensors.peephole;
  if (steps.begin == 0) {
    step.x = tensors.x + layer.first() * x_state;
    step.h_previous = tensors.h_0;
    step.c_0 = tensors.c_0;
    step.gates = gates + (layer.first() - steps.first) * 4 * state;
    if (int error = Path<T>(layer, stream).forward_step(step)) return error;
  }
  const LaterSteps later(layer, steps);
  if (later.count == 0) return 0;
  Layer images = layer;
  images.batch = later.count * layer.batch;
  step.x = tensors.x + later.first * x_state;
  step.h_previous = tensors.output + layer.frame_before(later.first) * state;
  step.c_previous = tensors.cells + layer.frame_before(later.first) * state;
  step.gates = gates + (later.first - steps.first) * 4 * state;
  return Path<T>(images, stream).forward_step(step);
}

// Sums over all steps, of which these are only some: the arrays hold, in A, the sums of the chunks done so far; the
// last chunk gives the gradients.
template <class T>
struct Sums {
  using A = accumulation_t<T>;
  A *weight_x = nullptr, *weight_h = nullptr, *bias = nullptr, *peephole = nullptr;
  bool begun = false, ends = true;

  Sums() = default;
  Sums(const Layer& layer, A* room)
      : weight_x(room),
        weight_h(weight_x + 4 * layer.channels * layer.in_channels * layer.taps()),
        bias(weight_h + 4 * layer.channels * layer.channels * layer.taps()),
        peephole(bias + 4 * layer.channels) {}

  static int64_t size(const Layer& layer) {
    const int64_t C = layer.channels;
    return 4 * C * ((layer.in_channels + C) * layer.taps() + 1) + 3 * C * layer.pixels();
  }

  SumTarget<T> target(A* sum, T* gradient) const { return {begun ? sum : nullptr, ends ? gradient : nullptr, sum}; }
};

// One layer's part of a backward pass over some of its steps.
template <class T>
struct LayerWork {
  using A = accumulation_t<T>;
  Layer layer;
  BackwardTensors<T> tensors;
  Sums<T> sums;
  // Packed as transposed, and as gates; null if not needed.
  const A *weight_h = nullptr, *weight_x = nullptr, *gates_weight_h = nullptr, *gates_weight_x = nullptr;
  const T* gates = nullptr;             // (steps, N, 4, C, H, W)
  T* grad_gates = nullptr;              // (steps, N, 4C, H, W); may be gates
  const T* grad_gates_after = nullptr;  // of the step that ran after these steps, or null
  A* grad_c = nullptr;                  // (N, C, H, W): from that step, and on to the steps before
};

// Fills grad_gates, step by step from the last to the first, and grad_c_0 at the layer's first step.
template <class T>
int backward_through_time(const LayerWork<T>& work, const Steps& steps, Stream stream) {
  const Layer& layer = work.layer;
  const BackwardTensors<T>& tensors = work.tensors;
  const Path<T> path(layer, stream);
  const int64_t state = layer.state();
  BackwardStep<T> step{};
  step.weight_h = work.weight_h;
  step.peephole = tensors.peephole;
  step.grad_c_n = tensors.grad_c_n;
  step.grad_c = work.grad_c;
  step.grad_gates_next = work.grad_gates_after;
  for (int64_t s = steps.end - 1; s >= steps.begin; --s) {
    const int64_t t = layer.frame(s), here = (t - steps.first) * 4 * state;
    step.grad_output = offset(tensors.grad_output, t * state);
    step.gates = work.gates + here;
    step.c = tensors.cells + t * state;
    step.c_previous = s > 0 ? tensors.cells + layer.frame_before(t) * state : nullptr;
    step.c_0 = s > 0 ? nullptr : tensors.c_0;
    step.grad_c_0 = s > 0 ? nullptr : tensors.grad_c_0;
    step.grad_gates = work.grad_gates + here;
    if (int error = path.backward_step(step)) return error;
    step.grad_gates_next = step.grad_gates;
  }
  return 0;
}

// The layer that decides how a convolution over an input shared by all these layers runs: the one with the widest
// window.
template <class T>
Layer widest(const LayerWork<T>* works, int count) {
  const LayerWork<T>* result = works;
  for (int i = 1; i < count; ++i)
    if (works[i].layer.dilation > result->layer.dilation) result = works + i;
  return result->layer;
}

// grad_h_0 of every layer that needs it, and grad_x: layers that share an array are summed in one launch.
template <class T>
int data_gradients(const LayerWork<T>* works, int count, const Steps& steps, Stream stream) {
  const Layer wide = widest(works, count);
  const Path<T> joint(wide, stream);
  for (int i = 0; i < count; ++i) {
    const auto& [layer, tensors] = std::tie(works[i].layer, works[i].tensors);
    const int64_t state = layer.state(), x_state = state / layer.channels * layer.in_channels;
    if (tensors.grad_h_0 && steps.begin == 0) {
      const T* const initial = works[i].grad_gates + (layer.first() - steps.first) * 4 * state;
      const DataGradients<T> own{{{initial, works[i].weight_h, layer.dilation}}, 1, nullptr};
      const Path<T> path(layer, stream);
      if (int error = path.input_gradient(layer.batch, layer.channels, own, tensors.grad_h_0)) return error;
    }
    DataGradients<T> shared{{}, 0, offset(tensors.grad_x_before, steps.first * x_state)};
    bool is_first = tensors.grad_x != nullptr;
    for (int j = 0; j < count; ++j) {
      if (works[j].tensors.grad_x != tensors.grad_x) continue;
      is_first = is_first && (shared.count > 0 || j == i);
      shared.parts[shared.count++] = {works[j].grad_gates, works[j].weight_x, works[j].layer.dilation};
    }
    if (!is_first) continue;
    if (int error = joint.input_gradient(steps.count() * layer.batch, layer.in_channels, shared,
                                         tensors.grad_x + steps.first * x_state))
      return error;
  }
  return 0;
}

inline WeightShape weight_shape(const Layer& layer, int64_t channels) {
  return {layer, kGateCount * layer.channels, channels};
}

// The number of tiles of all weight gradients of these layers, and the elements of their workspace.
template <class T>
int64_t weight_gradient_tiles(const LayerWork<T>* works, int count) {
  int64_t tiles = 0;
  for (int i = 0; i < count; ++i)
    for (int64_t channels : {works[i].layer.in_channels, works[i].layer.channels})
      tiles += weight_gradient_tiles<T>(weight_shape(works[i].layer, channels));
  return tiles;
}

template <class T>
int64_t weight_gradient_room(const LayerWork<T>* works, int count, int64_t steps) {
  int64_t room = 0;
  for (int i = 0; i < count; ++i)
    for (int64_t channels : {works[i].layer.in_channels, works[i].layer.channels})
      room += weight_gradient_workspace<T>(weight_shape(works[i].layer, channels), steps * works[i].layer.batch,
                                           weight_gradient_tiles(works, count));
  return room;
}

// Adds the gradients of a layer's weights that are needed; returns the end of the list.
template <class T>
WeightGradient<T>* add_weight_gradients(const LayerWork<T>& work, const Steps& steps, WeightGradient<T>* next) {
  const Layer& layer = work.layer;
  const BackwardTensors<T>& tensors = work.tensors;
  const int64_t state = layer.state(), x_state = state / layer.channels * layer.in_channels;
  if (tensors.grad_weight_x)
    *next++ = {weight_shape(layer, layer.in_channels),
               {tensors.x + steps.first * x_state, work.grad_gates, steps.count() * layer.batch},
               {},
               work.sums.target(work.sums.weight_x, tensors.grad_weight_x)};
  if (!tensors.grad_weight_h) return next;
  // h_{t-1} is the output of the frame before t; at the layer's first step it is h_0.
  const LaterSteps later(layer, steps);
  ImagePairs<T> recurrent{}, first{};
  if (later.count > 0)
    recurrent = {tensors.output + layer.frame_before(later.first) * state,
                 work.grad_gates + (later.first - steps.first) * 4 * state, later.count * layer.batch};
  if (tensors.h_0 && steps.begin == 0)
    first = {tensors.h_0, work.grad_gates + (layer.first() - steps.first) * 4 * state, layer.batch};
  *next++ = {weight_shape(layer, layer.channels), recurrent, first,
             work.sums.target(work.sums.weight_h, tensors.grad_weight_h)};
  return next;
}

// Everything that is batched over the steps, for all layers together. room: weight_gradient_room() elements.
template <class T>
int batched_gradients(const LayerWork<T>* works, int count, const Steps& steps, accumulation_t<T>* room,
                      Stream stream) {
  if (int error = data_gradients(works, count, steps, stream)) return error;
  WeightGradient<T> weights[kMaxWeightGradients];
  BiasGradient<T> biases[kMaxBiasGradients];
  WeightGradient<T>* end = weights;
  int bias_count = 0;
  for (int i = 0; i < count; ++i) {
    const auto& [layer, tensors, sums] = std::tie(works[i].layer, works[i].tensors, works[i].sums);
    end = add_weight_gradients(works[i], steps, end);
    if (tensors.grad_bias)
      biases[bias_count++] = {works[i].grad_gates, steps.count() * layer.batch, 4 * layer.channels, layer.pixels(),
                              sums.target(sums.bias, tensors.grad_bias)};
    if (tensors.grad_peephole)
      if (int error =
              launch_peephole_gradient<T>(layer, steps.first, steps.count(), works[i].grad_gates, tensors.cells,
                                          tensors.c_0, sums.target(sums.peephole, tensors.grad_peephole), stream))
        return error;
  }
  if (int error = launch_bias_gradients(biases, bias_count, stream)) return error;
  return launch_weight_gradients(weights, int(end - weights), weight_gradient_tiles(works, count), room, stream);
}

}  // namespace pdb::cuda
