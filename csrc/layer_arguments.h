// One ConvLSTM layer over a whole sequence, as the CPU and the CUDA implementation receive it: sizes, options, and
// pointers to the arrays. 4C rows are the gates in the order of gate.h, C rows each. No torch, no CUDA header.
#pragma once

#include <cstdint>

#include "cell.h"

namespace pdb {

// Sizes and options. All sizes but batch are at least 1.
struct Layer {
  int64_t steps, batch;           // T, N
  int64_t in_channels, channels;  // Cin, C
  int64_t height, width;          // H, W
  int64_t kernel, dilation;       // k is odd; zero padding of dilation*(k-1)/2, so that convolutions keep H and W
  bool reverse = false;           // runs t = T-1 ... 0
  bool peephole_current = false;  // the output gate reads c_t rather than c_{t-1}
  // Only the CUDA implementation reads these two.
  bool tensor_cores = false;  // convolutions on tensor cores where possible: half types, and float as TF32
  bool persistent = false;    // all steps in one launch if the layer fits (persistent.h), else one launch a step

  PDB_HD int64_t pixels() const { return height * width; }
  PDB_HD int64_t taps() const { return kernel * kernel; }
  PDB_HD int64_t state() const { return batch * channels * pixels(); }  // elements of one h or c
  PDB_HD int64_t sequence() const { return steps * state(); }           // elements of the output
  PDB_HD int64_t first() const { return reverse ? steps - 1 : 0; }      // the frame whose step reads h_0 and c_0

  // The frame of the s-th step to run, and the frame of the step that runs before that of frame t.
  PDB_HD int64_t frame(int64_t s) const { return reverse ? steps - 1 - s : s; }
  PDB_HD int64_t frame_before(int64_t t) const { return reverse ? t + 1 : t - 1; }
};

// Beyond the larger side of the image every tap but the centre lies outside, whatever the dilation: once it is bounded
// by that side, no offset can overflow.
inline int64_t bounded_dilation(int64_t dilation, int64_t height, int64_t width) {
  const int64_t side = height > width ? height : width;
  return dilation < side ? dilation : side;
}

inline Layer with_bounded_dilation(Layer layer) {
  layer.dilation = bounded_dilation(layer.dilation, layer.height, layer.width);
  return layer;
}

// Peephole weights (3, C, H, W), read through strides in elements (0 where broadcast). Null data: none.
template <class T>
struct PeepholeWeights {
  const T* data;
  int64_t gate, channel, row, column;
};

// T: the storage type. A: the type of cell states, in which sums are accumulated. Sequence: a tensor (T, N, channels,
// H, W) that is read; a pointer, or a pointer with strides. Arrays are contiguous unless strides are given. The gates
// and cells have an order of the implementation's own: (T, N, 4, C, H, W) and (T, N, C, H, W) on CUDA, (T, N, H, W, 4C)
// and (T, N, H, W, C) on the CPU.
template <class T, class A, class Sequence>
struct ForwardArrays {
  Sequence x;         // (T, N, Cin, H, W)
  const T* weight_x;  // (4C, Cin, k, k)
  const T* weight_h;  // (4C, C, k, k)
  const T* bias;      // (4C) or null
  PeepholeWeights<T> peephole;
  const T* h_0;  // (N, C, H, W), or null for zeros
  const T* c_0;  // (N, C, H, W), null together with h_0
  T* output;     // (T, N, C, H, W): h_t at frame t
  T* c_n;        // (N, C, H, W): the cell state after the last step
  T* gates;      // activations for backward, or null
  A* cells;      // c_t for backward, or null; not null with gates
};

// Gradients may be null where not needed. Those of h_0 and c_0 are defined even if h_0 and c_0 are null (zeros).
template <class T, class A, class Sequence>
struct BackwardArrays {
  Sequence grad_output;  // (T, N, C, H, W); null for zeros
  const T* grad_c_n;     // (N, C, H, W), or null for zeros
  Sequence x;            // as in ForwardArrays, from here ...
  const T* weight_x;
  const T* weight_h;
  const T* bias;
  PeepholeWeights<T> peephole;
  const T* h_0;
  const T* c_0;
  const T* output;
  const T* gates;    // null: computed again, from cells and output
  const A* cells;    // ... to here
  T* grad_x;         // (T, N, Cin, H, W)
  T* grad_weight_x;  // (4C, Cin, k, k)
  T* grad_weight_h;  // (4C, C, k, k)
  T* grad_bias;      // (4C)
  T* grad_peephole;  // (3, C, H, W)
  T* grad_h_0;       // (N, C, H, W)
  T* grad_c_0;       // (N, C, H, W)
};

}  // namespace pdb
