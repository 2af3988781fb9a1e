// What a half of a ConvGRU's step reads and writes, the same for plain kernels and those on tensor cores.
#pragma once

#include "cuda/common/gru_cell_io.h"
#include "cuda/common/step.h"

namespace pdb::cuda {

template <GruHalf kHalf, class T>
__device__ __forceinline__ GateOperands<T> gru_operands(const GruForwardStep<T>& step) {
  if constexpr (kHalf == GruHalf::reset) return {step.x, step.reset_x, step.h_previous, step.reset_h};
  return {step.x, step.update_x, step.h_previous ? step.rh : nullptr, step.update_h};
}

template <GruHalf kHalf, class T, class A>
__device__ __forceinline__ void finish_gru_forward(const GruForwardStep<T>& step, const Layer& layer, int64_t image,
                                                   int64_t channel, int64_t y, int64_t x, const A* sum) {
  const int64_t pixel = y * layer.width + x;
  const T result = gru_forward_half<kHalf>(step, layer, image, channel, pixel, sum);
  if (kHalf == GruHalf::reset) step.rh[GruPlace(layer, image, channel, pixel).state] = result;
}

// The gate gradients that backward convolves: those of r and z of the step that ran after, or those of n of this step.
template <class T>
struct GruConvolved {
  const T* grad_gates;  // the first row of the first image, or null; an image has 3C rows
  int64_t rows;
  const accumulation_t<T>* weight;  // packed as transposed
};

template <GruHalf kHalf, class T>
__device__ __forceinline__ GruConvolved<T> gru_convolved(const GruBackwardStep<T>& step, const Layer& layer) {
  const int64_t C = layer.channels;
  if constexpr (kHalf == GruHalf::update) return {step.grad_gates_next, 2 * C, step.reset_h};
  return {step.grad_gates + kGateN * C * layer.pixels(), C, step.update_h};
}

// sum: the convolution of gru_convolved() at one element.
template <GruHalf kHalf, class T, class A>
__device__ __forceinline__ void finish_gru_backward(const GruBackwardStep<T>& step, const Layer& layer, int64_t image,
                                                    int64_t channel, int64_t y, int64_t x, A sum) {
  const GruPlace at(layer, image, channel, y * layer.width + x);
  if constexpr (kHalf == GruHalf::update) {
    const A dh = gru_state_gradient(step, at, sum, !step.grad_gates_next);
    if (step.grad_h_0) {
      step.grad_h_0[at.state] = narrowed<T>(dh);
      return;
    }
    T* const grad_gates = step.grad_gates + at.gates;
    A dz, dn;
    gru_update_gradients(step, at, dh, dz, dn);
    grad_gates[kGateZ * at.gate] = narrowed<T>(dz);
    grad_gates[kGateN * at.gate] = narrowed<T>(dn);
  } else {
    A rh;
    step.grad_gates[at.gates + kGateR * at.gate] = narrowed<T>(gru_reset_gradient(step, at, sum, rh));
    if (step.rh) step.rh[at.state] = narrowed<T>(rh);
  }
}

}  // namespace pdb::cuda
