// The cell of one channel at one pixel, forward and backward, between the registers of a convolution kernel and memory.
#pragma once

#include "cell.h"
#include "cuda/step/kernels.h"
#include "cuda/common/launch.h"

namespace pdb::cuda {

// The three weights of one channel at one pixel; zeros without peepholes.
template <class A, class T>
__device__ __forceinline__ Peephole<A> read_peephole(const PeepholeWeights<T>& weights, int64_t channel, int64_t y,
                                                     int64_t x) {
  if (!weights.data) return {A(0), A(0), A(0)};
  const T* data = weights.data + channel * weights.stride[1] + y * weights.stride[2] + x * weights.stride[3];
  return {A(widen(data[0])), A(widen(data[weights.stride[0]])), A(widen(data[2 * weights.stride[0]]))};
}

// c_{t-1} at one element.
template <class Step>
__device__ __forceinline__ auto previous_cell(const Step& step, int64_t at) {
  using A = typename Step::A;
  return step.c_previous ? step.c_previous[at] : step.c_0 ? A(widen(step.c_0[at])) : A(0);
}

template <class T, class A>
__device__ __forceinline__ Gates<A> add_bias(const A* sum, const T* bias, int64_t channels, int64_t channel) {
  Gates<A> gates{sum[0], sum[1], sum[2], sum[3]};
  if (bias) {
    gates.i += widen(bias[channel]);
    gates.f += widen(bias[channels + channel]);
    gates.o += widen(bias[2 * channels + channel]);
    gates.g += widen(bias[3 * channels + channel]);
  }
  return gates;
}

// Four gates, or their gradients, of one cell. at: of gate i; gate: elements from one gate to the next.
template <class A, class T>
__device__ __forceinline__ void store_gates(const Gates<A>& gates, T* at, int64_t gate) {
  at[0] = narrowed<T>(gates.i);
  at[gate] = narrowed<T>(gates.f);
  at[2 * gate] = narrowed<T>(gates.o);
  at[3 * gate] = narrowed<T>(gates.g);
}

template <class T>
__device__ __forceinline__ Gates<accumulation_t<T>> read_gates(const T* at, int64_t gate) {
  return {widen(at[0]), widen(at[gate]), widen(at[2 * gate]), widen(at[3 * gate])};
}

// Forward. sum: the four gates of the convolutions. Returns h.
template <class T, class A>
__device__ __forceinline__ T update_cell(const ForwardStep<T>& step, const Layer& layer, int64_t image, int64_t channel,
                                         int64_t y, int64_t x, const A* sum) {
  const int64_t C = layer.channels, pixel = y * layer.width + x;
  const int64_t at = (image * C + channel) * layer.pixels() + pixel;
  Gates<A> gates = add_bias(sum, step.bias, C, channel);
  A c, h;
  cell_forward(gates, read_peephole<A>(step.peephole, channel, y, x), previous_cell(step, at), layer.peephole_current, c,
               h);
  const T rounded = narrowed<T>(h);
  if (step.h) step.h[at] = rounded;
  if (step.c) step.c[at] = c;
  if (step.c_n) step.c_n[at] = narrowed<T>(c);
  if (step.gates) {
    store_gates(gates, step.gates + (image * 4 * C + channel) * layer.pixels() + pixel, C * layer.pixels());
  }
  return rounded;
}

// Backward: from the activations and the gradient of h_t to those of the pre-activations; the gradient of c_{t-1} is
// stored. last: the last step that ran, to which no other step sends a gradient.
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

// Backward in a fused step. dh: what reaches h_t from the step that ran after this one. step.grad_gates may be step.gates.
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
