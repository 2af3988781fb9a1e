// One ConvGRU layer over a whole sequence, as the CPU and the CUDA implementation receive it (sizes and options are
// those of Layer, which has no peephole here). 3C rows are the gates in the order of gru_cell.h, C rows each.
#pragma once

#include "gru_cell.h"
#include "layer_arguments.h"

namespace pdb {

// T: the storage type. Sequence: a tensor (T, N, channels, H, W) that is read; a pointer, or a pointer with strides.
// Arrays are contiguous unless strides are given. The gates have an order of the implementation's own: (T, N, 3, C, H,
// W) on CUDA, (T, N, H, W, 3C) on the CPU.
template <class T, class Sequence>
struct GruForwardArrays {
  Sequence x;         // (T, N, Cin, H, W)
  const T* weight_x;  // (3C, Cin, k, k)
  const T* weight_h;  // (3C, C, k, k); the rows of n read r_t . h_{t-1}
  const T* bias;      // (3C) or null
  const T* h_0;       // (N, C, H, W), or null for zeros
  T* output;          // (T, N, C, H, W): h_t at frame t
  T* gates;           // activations for backward, or null
};

// Gradients may be null where not needed. That of h_0 is defined even if h_0 is null (zeros).
template <class T, class Sequence>
struct GruBackwardArrays {
  Sequence grad_output;  // (T, N, C, H, W); null for zeros
  Sequence x;            // as in GruForwardArrays, from here ...
  const T* weight_x;
  const T* weight_h;
  const T* h_0;
  const T* output;
  const T* gates;    // ... to here
  T* grad_x;         // (T, N, Cin, H, W)
  T* grad_weight_x;  // (3C, Cin, k, k)
  T* grad_weight_h;  // (3C, C, k, k)
  T* grad_bias;      // (3C)
  T* grad_h_0;       // (N, C, H, W)
};

}  // namespace pdb
