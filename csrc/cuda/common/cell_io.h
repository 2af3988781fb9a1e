// The cell of one channel at one pixel, forward and backward, between the registers of a convolution kernel and memory.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/common/step.h"
#include "gate.h"

namespace pdb::cuda {

// The three weights of one channel at one pixel; zeros without peepholes.
template <class A, class T>
__device__ __forceinline__ Peephole<A> read_peephole(const PeepholeWeights<T>& weights, int64_t channel, int64_t y,
                                                     int64_t x) {
  if (!weights.data) return {A(0), A(0), A(0)};
  const T* data = weights.data + channel * weights.channel + y * weights.row + x * weights.column;
  return {A(widen(data[kGateI * weights.gate])), A(widen(data[kGateF * weights.gate])),
          A(widen(data[kGateO * weights.gate]))};
}

// c_{t-1} at one element.
template <class Step>
__device__ __forceinline__ auto previous_cell(const Step& step, int64_t at) {
  using A = typename Step::A;
  return step.c_previous ? step.c_previous[at] : step.c_0 ? A(widen(step.c_0[at])) : A(0);
}

template <class T, class A>
__device__ __forceinline__ Gates<A> add_bias(const A* sum, const T* bias, int64_t channels, int64_t channel) {
  Gates<A> gates{sum[kGateI], sum[kGateF], sum[kGateO], sum[kGateG]};
  if (bias) {
    gates.i += widen(bias[kGateI * channels + channel]);
    gates.f += widen(bias[kGateF * channels + channel]);
    gates.o += widen(bias[kGateO * channels + channel]);
    gates.g += widen(bias[kGateG * channels + channel]);
  }
  return gates;
}

// The gates of one cell, or their gradients. at: the first gate's place; gate: elements from one gate to the next.
template <class A, class T>
__device__ __forceinline__ void store_gates(const Gates<A>& gates, T* at, int64_t gate) {
  at[kGateI * gate] = narrowed<T>(gates.i);
  at[kGateF * gate] = narrowed<T>(gates.f);
  at[kGateO * gate] = narrowed<T>(gates.o);
  at[kGateG * gate] = narrowed<T>(gates.g);
}

template <class T>
__device__ __forceinline__ Gates<accumulation_t<T>> read_gates(const T* at, int64_t gate) {
  return {widen(at[kGateI * gate]), widen(at[kGateF * gate]), widen(at[kGateO * gate]), widen(at[kGateG * gate])};
}

// Forward. sum: the sums of both convolutions for the four gates, in packed order. Returns h.
template <class T, class A>
__device__ __forceinline__ T update_cell(const ForwardStep<T>& step, const Layer& layer, int64_t image, int64_t channel,
                                         int64_t y, int64_t x, const A* sum) {
  const int64_t C = layer.channels, pixel = y * layer.width + x;
  const int64_t at = (image * C + channel) * layer.pixels() + pixel;
  Gates<A> gates = add_bias(sum, step.bias, C, channel);
  A c, h;
  cell_forward(gates, read_peephole<A>(step.peephole, channel, y, x), previous_cell(step, at), layer.peephole_current,
               c, h);
  const T rounded = narrowed<T>(h);
  if (step.h) step.h[at] = rounded;
  if (step.c) step.c[at] = c;
  if (step.c_n) step.c_n[at] = narrowed<T>(c);
  if (step.gates) {
    store_gates(gates, step.gates + (image * 4 * C + channel) * layer.pixels() + pixel, C * layer.pixels());
  }
  return rounded;
}

// Backward: from the activations and the gradient of h_t to the gradients of the pre-activations; stores the gradient
// of c_{t-1}. last: whether this is the last step that ran, to which no other step sends a gradient.
template <class T, class A>
__device__ __forceinline__ Gates<A> gate_gradients(const BackwardStep<T>& step, const Layer& layer, int64_t image,
                                                   int64_t channel, int64_t y, int64_t x, const Gates<A>& gates, A dh,
                                                   bool last) {
  const int64_t at = (image * layer.channels + channel) * layer.pixels() + y * layer.width + x;
  if (step.grad_output) dh += widen(step.grad_output[at]);
  A dc = !last ? step.grad_c[at] : step.grad_c_n ? A(widen(step.grad_c_n[at])) : A(0);
  Gates<A> dgates;
  cell_backward(gates, read_peephole<A>(step.peephole, channel, y, x), previous_cell(step, at), step.c[at],
                layer.peephole_current, dh, dc, dgates);
  step.grad_c[at] = dc;
  if (step.grad_c_0) step.grad_c_0[at] = narrowed<T>(dc);
  return dgates;
}

// Backward in a fused step. dh: what reaches h_t from the step that ran after this one. step.grad_gates may be
// step.gates.
template <class T, class A>
__device__ __forceinline__ void update_gradients(const BackwardStep<T>& step, const Layer& layer, int64_t image,
                                                 int64_t channel, int64_t y, int64_t x, A dh) {
  const int64_t C = layer.channels, gate = C * layer.pixels();
  const int64_t at_gates = (image * 4 * C + channel) * layer.pixels() + y * layer.width + x;
  const Gates<A> gates = read_gates(step.gates + at_gates, gate);
  const Gates<A> dgates = gate_gradients(step, layer, image, channel, y, x, gates, dh, !step.grad_gates_next);
  store_gates(dgates, step.grad_gates + at_gates, gate);
}

}  // namespace pdb::cuda
