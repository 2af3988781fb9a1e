// The parts of backward of one layer: over some of its steps, through time, and what is batched over them behind it.
#pragma once

#include <algorithm>

#include "path.h"
#include "steps.h"

namespace pdb::cuda {

// Steps [begin, end) in the order in which they run; `first` is the first of their frames.
struct Steps {
  int64_t begin, end, first;

  Steps(const Layer& layer, int64_t begin, int64_t end)
      : begin(begin), end(end), first(layer.reverse ? layer.steps - end : begin) {}

  int64_t count() const { return end - begin; }
};

// Those of the steps that another one ran before: how many, and the first of their frames.
struct LaterSteps {
  int64_t count, first;

  LaterSteps(const Layer& layer, const Steps& steps)
      : count(steps.end - std::max<int64_t>(steps.begin, 1)),
        first(layer.reverse ? steps.first : std::max<int64_t>(steps.begin, 1)) {}
};

// Elements of both weights packed to compute the gates again, and for the data gradients.
template <class T>
int64_t packed_gates(const Layer& layer, const Path<T>& path) {
  return path.packed(layer.in_channels, Packing::gates) + path.packed(layer.channels, Packing::gates);
}

template <class T>
int64_t packed_transposed(const Layer& layer, const Path<T>& path) {
  return path.packed(layer.channels, Packing::transposed) + path.packed(layer.in_channels, Packing::transposed);
}

template <class T>
int pack_gates(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path, accumulation_t<T>* weights) {
  if (int error = path.pack(tensors.weight_x, layer.in_channels, Packing::gates, weights)) return error;
  return path.pack(tensors.weight_h, layer.channels, Packing::gates,
                   weights + path.packed(layer.in_channels, Packing::gates));
}

// h first, then x; each only if it is needed. through_time: for the steps, too, not for grad_h_0 alone.
template <class T>
int pack_transposed(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path, bool through_time,
                    accumulation_t<T>* weights) {
  if (through_time || tensors.grad_h_0)
    if (int error = path.pack(tensors.weight_h, layer.channels, Packing::transposed, weights)) return error;
  return tensors.grad_x ? path.pack(tensors.weight_x, layer.in_channels, Packing::transposed,
                                    weights + path.packed(layer.channels, Packing::transposed))
                        : 0;
}

// The activated gates (steps, N, 4, C, H, W): with h and c known the steps do not wait for each other, so that one launch
// computes those of the layer's first step and another one all others. weights: pack_gates().
template <class T>
int recompute_gates(const Layer& layer, const BackwardTensors<T>& tensors, const Steps& steps,
                    const accumulation_t<T>* weights, accumulation_t<T>* gates, Stream stream) {
  const int64_t state = layer.state(), x_state = state / layer.channels * layer.in_channels;
  const Path<T> path(layer, stream);
  ForwardStep<T> step{};
  step.weight_x = weights;
  step.weight_h = weights + path.packed(layer.in_channels, Packing::gates);
  step.bias = tensors.bias;
  step.peephole = tensors.peephole;
  if (steps.begin == 0) {
    step.x = tensors.x + layer.first() * x_state;
    step.h_previous = tensors.h_0;
    step.c_0 = tensors.c_0;
    step.gates = gates + (layer.first() - steps.first) * 4 * state;
    if (int error = path.forward_step(step)) return error;
  }
  const LaterSteps later(layer, steps);
  if (later.count == 0) return 0;
  Layer images = layer;
  images.batch = later.count * layer.batch;
  step.x = tensors.x + later.first * x_state;
  step.h_previous = tensors.output + before(layer, later.first) * state;
  step.c_previous = tensors.cells + before(layer, later.first) * state;
  step.gates = gates + (later.first - steps.first) * 4 * state;
  return Path<T>(images, stream).forward_step(step);
}

// What backward through time needs besides the tensors. gates and grad_gates: (steps, N, 4C, H, W), may be the same.
template <class T>
struct ThroughTime {
  using A = accumulation_t<T>;
  const A* weight_h;          // packed
  const A* gates;
  A* grad_gates;
  const A* grad_gates_after;  // of the step that ran after these, or null
  A* grad_c;                  // (N, C, H, W): from there, and to the steps before
};

// Fills grad_gates, step by step from the last to the first, and grad_c_0 at the layer's first.
template <class T>
int backward_through_time(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path, const Steps& steps,
                          const ThroughTime<T>& work) {
  const int64_t state = layer.state();
  BackwardStep<T> step{};
  step.weight_h = work.weight_h;
  step.peephole = tensors.peephole;
  step.grad_c_n = tensors.grad_c_n;
  step.grad_c = work.grad_c;
  step.grad_gates_next = work.grad_gates_after;
  for (int64_t s = steps.end - 1; s >= steps.begin; --s) {
    const int64_t t = frame(layer, s), here = (t - steps.first) * 4 * state;
    step.grad_output = offset(tensors.grad_output, t * state);
    step.gates = work.gates + here;
    step.c = tensors.cells + t * state;
    step.c_previous = s > 0 ? tensors.cells + before(layer, t) * state : nullptr;
    step.c_0 = s > 0 ? nullptr : tensors.c_0;
    step.grad_c_0 = s > 0 ? nullptr : tensors.grad_c_0;
    step.grad_gates = work.grad_gates + here;
    if (int error = path.backward_step(step)) return error;
    step.grad_gates_next = step.grad_gates;
  }
  return 0;
}

// Sums over all steps, where these are only some of them: what those that were done before have given is in `sums`, in A,
// the last ones give the gradients.
template <class T>
struct Sums {
  using A = accumulation_t<T>;
  A *weight_x = nullptr, *weight_h = nullptr, *bias = nullptr, *peephole = nullptr;
  bool begun = false, ends = true;

  Sums() = default;
  Sums(const Layer& layer, A* room)
      : weight_x(room), weight_h(weight_x + 4 * layer.channels * layer.in_channels * layer.taps()),
        bias(weight_h + 4 * layer.channels * layer.channels * layer.taps()), peephole(bias + 4 * layer.channels) {}

  static int64_t size(const Layer& layer) {
    const int64_t C = layer.channels;
    return 4 * C * ((layer.in_channels + C) * layer.taps() + 1) + 3 * C * layer.pixels();
  }
  // add(what is added first, or null; where the result goes)
  template <class Add>
  int add(A* sum, T* gradient, const Add& add) const {
    const A* const before = begun ? sum : nullptr;
    return ends ? add(before, gradient) : add(before, sum);
  }
};

// Everything that is batched over the steps. weights: pack_transposed(); room: weight_gradient_workspace() elements.
template <class T>
int batched_gradients(const Layer& layer, const BackwardTensors<T>& tensors, const Path<T>& path, const Steps& steps,
                      const accumulation_t<T>* grad_gates, const accumulation_t<T>* weights, const Sums<T>& sums,
                      accumulation_t<T>* room, Stream stream) {
  using A = accumulation_t<T>;
  const int64_t C = layer.channels, Cin = layer.in_channels, state = layer.state(), x_state = state / C * Cin;
  const int64_t images = steps.count() * layer.batch;
  const A* const initial = grad_gates + (layer.first() - steps.first) * 4 * state;
  if (tensors.grad_h_0 && steps.begin == 0)
    if (int error = path.input_gradient(layer.batch, C, initial, weights, tensors.grad_h_0)) return error;
  if (tensors.grad_x)
    if (int error = path.input_gradient(images, Cin, grad_gates, weights + path.packed(C, Packing::transposed),
                                        tensors.grad_x + steps.first * x_state))
      return error;
  if (tensors.grad_weight_x) {
    const ImagePairs<T> pairs{tensors.x + steps.first * x_state, grad_gates, images};
    if (int error = sums.add(sums.weight_x, tensors.grad_weight_x, [&](const A* before, auto* result) {
          return path.weight_gradient(Cin, pairs, ImagePairs<T>{}, before, result, room);
        }))
      return error;
  }
  if (tensors.grad_weight_h) {
    // h_{t-1} is the output of the frame before t; the frame without one reads h_0.
    const LaterSteps later(layer, steps);
    ImagePairs<T> recurrent{}, first{};
    if (later.count > 0)
      recurrent = {tensors.output + before(layer, later.first) * state, grad_gates + (later.first - steps.first) * 4 * state,
                   later.count * layer.batch};
    if (tensors.h_0 && steps.begin == 0) first = {tensors.h_0, initial, layer.batch};
    if (int error = sums.add(sums.weight_h, tensors.grad_weight_h, [&](const A* before, auto* result) {
          return path.weight_gradient(C, recurrent, first, before, result, room);
        }))
      return error;
  }
  if (tensors.grad_bias)
    if (int error = sums.add(sums.bias, tensors.grad_bias, [&](const A* before, auto* result) {
          return launch_bias_gradient(layer, images, grad_gates, before, result, stream);
        }))
      return error;
  if (!tensors.grad_peephole) return 0;
  return sums.add(sums.peephole, tensors.grad_peephole, [&](const A* before, auto* result) {
    return launch_peephole_gradient(layer, steps.first, steps.count(), grad_gates, tensors.cells, tensors.c_0, before, result,
                                    stream);
  });
}

// Elements that the larger weight gradient works in.
inline int64_t weight_gradient_workspace(const Layer& layer, int64_t steps) {
  const int64_t images = steps * layer.batch;
  return std::max(weight_gradient_workspace(layer, images, layer.in_channels),
                  weight_gradient_workspace(layer, images, layer.channels));
}

}  // namespace pdb::cuda
