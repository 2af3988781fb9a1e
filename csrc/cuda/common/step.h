// The arrays of one time step, forward and backward, as a kernel receives them. Conventions as in cuda/common/layer.h.
#pragma once

#include "cuda/common/layer.h"

namespace pdb::cuda {

// One time step: both convolutions, the cell, and its new state.
//
// The convolution of x is part of the step rather than hoisted in front of all steps. Reasoned on paper, not measured:
// hoisting takes half of the products off the chain of steps, but writes and reads 2 * 4C floats per pixel and step,
// and needs memory for all steps. It wins if a step leaves multiprocessors idle, that is, for layers with fewer tiles
// than multiprocessors; those run in one persistent launch, which computes x's part while it waits for its neighbours.
// A step that fills the GPU takes the same time for its products wherever they run. Layers whose products are large
// enough to outweigh the traffic take the path with hoisted convolutions by cuDNN (choose_path.cpp).
template <class T>
struct ForwardStep {
  using A = accumulation_t<T>;
  const T* x;           // (N, Cin, H, W)
  const T* h_previous;  // (N, C, H, W), or null for zeros
  const A* c_previous;  // (N, C, H, W), or null: c_0 then
  const T* c_0;         // (N, C, H, W), or null for zeros
  const A* weight_x;    // (4C, Cin, k, k) packed as gates
  const A* weight_h;    // (4C, C, k, k) packed as gates
  const T* bias;        // (4C) or null
  PeepholeWeights<T> peephole;
  T* h;      // (N, C, H, W), or null
  A* c;      // (N, C, H, W), or null; may be the same as c_previous
  T* c_n;    // (N, C, H, W), or null: c again, rounded
  T* gates;  // (N, 4, C, H, W): activations, or null
};

// What a forward step convolves: x with weight_x and a state with weight_h, both packed as gates.
template <class T>
struct GateOperands {
  const T* x;  // (N, Cin, H, W)
  const accumulation_t<T>* weight_x;
  const T* state;  // (N, C, H, W), or null for zeros
  const accumulation_t<T>* weight_h;
};

// One step of backward through time: the gradient of h_t (from the output and from the step that ran after), then the
// cell's.
template <class T>
struct BackwardStep {
  using A = accumulation_t<T>;
  const T* grad_output;      // (N, C, H, W) at this frame, or null for zeros
  const T* grad_gates_next;  // (N, 4C, H, W): pre-activation gradients of the step that ran after this one, or null
  const A* weight_h;         // (4C, C, k, k) packed as transposed
  const T* gates;            // (N, 4, C, H, W)
  const A* c;                // (N, C, H, W): c_t
  const A* c_previous;       // (N, C, H, W), or null: c_0 then
  const T* c_0;              // (N, C, H, W), or null for zeros
  PeepholeWeights<T> peephole;
  const T* grad_c_n;  // (N, C, H, W), or null for zeros; read if grad_gates_next is null (the last step)
  A* grad_c;          // (N, C, H, W): in, the gradient of c_t (ignored at the last step); out, of c_{t-1}
  T* grad_c_0;        // (N, C, H, W), or null: the outgoing grad_c again, rounded
  T* grad_gates;      // (N, 4C, H, W): gradients of the pre-activations; may be the same as gates
};

}  // namespace pdb::cuda
