// The two halves of a ConvGRU's cell for one channel at one pixel, forward and backward, between registers and memory.
#pragma once

#include "cuda/common/gru_step.h"
#include "cuda/common/launch.h"

namespace pdb::cuda {

// Where one channel at one pixel lies in a state (N, C, H, W), and its first gate in (N, 3, C, H, W).
struct GruPlace {
  int64_t state, gates, gate;  // gate: elements from one gate to the next

  __device__ GruPlace(const Layer& layer, int64_t image, int64_t channel, int64_t pixel)
      : state((image * layer.channels + channel) * layer.pixels() + pixel),
        gates((image * kGruGateCount * layer.channels + channel) * layer.pixels() + pixel),
        gate(layer.channels * layer.pixels()) {}
};

template <class T>
__device__ __forceinline__ accumulation_t<T> read_state(const T* h, int64_t at) {
  return h ? widen(h[at]) : accumulation_t<T>(0);
}

template <class T>
__device__ __forceinline__ accumulation_t<T> gru_bias(const T* bias, int gate, const Layer& layer, int64_t channel) {
  return bias ? widen(bias[gate * layer.channels + channel]) : accumulation_t<T>(0);
}

// Forward, from the sums of the half's convolutions to what the next convolution reads: r . h_{t-1}, or h_t, rounded.
template <GruHalf kHalf, class T, class A>
__device__ __forceinline__ T gru_forward_half(const GruForwardStep<T>& step, const Layer& layer, int64_t image,
                                              int64_t channel, int64_t pixel, const A* sum) {
  const GruPlace at(layer, image, channel, pixel);
  const A h_previous = read_state(step.h_previous, at.state);
  if constexpr (kHalf == GruHalf::reset) {
    A r = sum[0] + gru_bias(step.bias, kGateR, layer, channel),
      z = sum[1] + gru_bias(step.bias, kGateZ, layer, channel);
    const T rh = narrowed<T>(gru_reset(r, z, h_previous));
    step.z[at.state] = z;
    if (step.gates) {
      step.gates[at.gates + kGateR * at.gate] = narrowed<T>(r);
      step.gates[at.gates + kGateZ * at.gate] = narrowed<T>(z);
    }
    return rh;
  } else {
    A n = sum[0] + gru_bias(step.bias, kGateN, layer, channel);
    const T h = narrowed<T>(gru_update(n, step.z[at.state], h_previous));
    if (step.gates) step.gates[at.gates + kGateN * at.gate] = narrowed<T>(n);
    step.h[at.state] = h;
    return h;
  }
}

template <class T>
__device__ __forceinline__ accumulation_t<T> read_gate(const GruBackwardStep<T>& step, const GruPlace& at, int gate) {
  return widen(step.gates[at.gates + gate * at.gate]);
}

// The gradient of h_t. sum: what reaches it through a convolution. last: whether this is the last step.
template <class T, class A>
__device__ __forceinline__ A gru_state_gradient(const GruBackwardStep<T>& step, const GruPlace& at, A sum, bool last) {
  if (step.grad_output) sum += widen(step.grad_output[at.state]);
  return last ? sum : sum + step.grad_h[at.state];
}

// Backward, the half `update`: the gradients of the pre-activations z and n.
template <class T, class A>
__device__ __forceinline__ void gru_update_gradients(const GruBackwardStep<T>& step, const GruPlace& at, A dh, A& dz,
                                                     A& dn) {
  step.grad_h[at.state] = gru_update_backward(read_gate(step, at, kGateZ), read_gate(step, at, kGateN),
                                              read_state(step.h_previous, at.state), dh, dz, dn);
}

// Backward, the half `reset`, from the gradient of r . h_{t-1}. Returns that of the pre-activation r; rh: r . h_{t-1}.
template <class T, class A>
__device__ __forceinline__ A gru_reset_gradient(const GruBackwardStep<T>& step, const GruPlace& at, A drh, A& rh) {
  const A r = read_gate(step, at, kGateR), h_previous = read_state(step.h_previous, at.state);
  A dr;
  step.grad_h[at.state] += gru_reset_backward(r, h_previous, drh, dr);
  rh = r * h_previous;
  return dr;
}

}  // namespace pdb::cuda
