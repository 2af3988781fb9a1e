// The cell of one channel at one pixel, forward and backward, between the registers of a convolution kernel and memory.
#pragma once

#include "../cell.h"
#include "kernels.h"
#include "launch.h"

namespace pdb::cuda {

// The three weights of one channel at one pixel; zeros without peepholes.
template <class A, class T>
__device__ __forceinline__ Peephole<A> read_peephole(const PeepholeWeights<T>& weights, int64_t channel, int64_t y,
                                                     int64_t x) {
  if (!weights.data) return {A(0), A(0), A(0)};
  const T* data = weights.data + channel * weights.stride[1] + y * weights.stride[2] + x * weights.stride[3];
  return {A(widen(data[0])), A(widen(data[weights.stride[0]])), A(widen(data[2 * weights.stride[0]]))};
}

// Forward. sum: the four gates of the convolutions.
template <class T, class A>
__device__ __forceinline__ void update_cell(const ForwardStep<T>& step, const Layer& layer, int64_t image,
                                            int64_t channel, int64_t y, int64_t x, const A* sum) {
  const int64_t C = layer.channels, pixel = y * layer.width + x;
  const int64_t at = (image * C + channel) * layer.pixels() + pixel;
  Gates<A> gates{sum[0], sum[1], sum[2], sum[3]};
  if (step.bias) {
    gates.i += widen(step.bias[channel]);
    gates.f += widen(step.bias[C + channel]);
    gates.o += widen(step.bias[2 * C + channel]);
    gates.g += widen(step.bias[3 * C + channel]);
  }
  const A c_previous = step.c_previous ? step.c_previous[at] : step.c_0 ? A(widen(step.c_0[at])) : A(0);
  A c, h;
  cell_forward(gates, read_peephole<A>(step.peephole, channel, y, x), c_previous, layer.peephole_current, c, h);
  step.h[at] = narrowed<T>(h);
  step.c[at] = c;
  if (step.c_n) step.c_n[at] = narrowed<T>(c);
  if (step.gates) {
    A* saved = step.gates + (image * 4 * C + channel) * layer.pixels() + pixel;
    const int64_t gate = C * layer.pixels();
    saved[0] = gates.i;
    saved[gate] = gates.f;
    saved[2 * gate] = gates.o;
    saved[3 * gate] = gates.g;
  }
}

// Backward. dh: what reaches h_t from the step that ran after this one.
template <class T, class A>
__device__ __forceinline__ void update_gradients(const BackwardStep<T>& step, const Layer& layer, int64_t image,
                                                 int64_t channel, int64_t y, int64_t x, A dh) {
  const int64_t C = layer.channels, pixel = y * layer.width + x, gate = C * layer.pixels();
  const int64_t at = (image * C + channel) * layer.pixels() + pixel;
  const int64_t at_gates = (image * 4 * C + channel) * layer.pixels() + pixel;
  if (step.grad_output) dh += widen(step.grad_output[at]);
  A dc = step.grad_gates_next ? step.grad_c[at] : step.grad_c_n ? A(widen(step.grad_c_n[at])) : A(0);
  const A c_previous = step.c_previous ? step.c_previous[at] : step.c_0 ? A(widen(step.c_0[at])) : A(0);
  const A* saved = step.gates + at_gates;
  const Gates<A> gates{saved[0], saved[gate], saved[2 * gate], saved[3 * gate]};
  Gates<A> dgates;
  cell_backward(gates, read_peephole<A>(step.peephole, channel, y, x), c_previous, step.c[at], layer.peephole_current,
                dh, dc, dgates);
  step.grad_c[at] = dc;
  if (step.grad_c_0) step.grad_c_0[at] = narrowed<T>(dc);
  A* result = step.grad_gates + at_gates;
  result[0] = dgates.i;
  result[gate] = dgates.f;
  result[2 * gate] = dgates.o;
  result[3 * gate] = dgates.g;
}

}  // namespace pdb::cuda
