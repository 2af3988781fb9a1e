// One ConvLSTM layer over a whole sequence on a GPU, forward and backward. No torch and no CUDA header: the only
// interface between the kernels and their callers.
//
// Arrays are contiguous unless strides are given and lie in device memory; 4C rows are the gates i, f, o, g, C rows each.
// A is accumulation_t<T>: float, or double for double. Every function returns a cudaError_t (0: success), works
// asynchronously on `stream`, allocates nothing and never waits for the device.
#pragma once

#include <cstdint>

#include "cell.h"
#include "cuda/dtype.h"

struct CUstream_st;

namespace pdb::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// Sizes and options of the layer. All sizes are at least 1.
struct Layer {
  int64_t steps, batch;           // T, N
  int64_t in_channels, channels;  // Cin, C
  int64_t height, width;          // H, W
  int64_t kernel, dilation;       // k odd; zero padding dilation*(k-1)/2, the convolutions keep H and W
  bool reverse;                   // runs t = T-1 ... 0
  bool peephole_current;          // the output gate reads c_t rather than c_{t-1}
  bool tensor_cores;              // convolutions on tensor cores where they can: half types, and float in TF32
  bool persistent;                // all steps in one launch (persistent.h) if the layer fits, else one launch a step

  PDB_HD int64_t pixels() const { return height * width; }
  PDB_HD int64_t taps() const { return kernel * kernel; }
  PDB_HD int64_t state() const { return batch * channels * pixels(); }  // elements of one h or c
  PDB_HD int64_t first() const { return reverse ? steps - 1 : 0; }      // the step that reads h_0 and c_0
  PDB_HD int64_t last() const { return reverse ? 0 : steps - 1; }
};

// Peephole weights (3, C, H, W), rows i, f, o, read through element strides (0 where broadcast). Null data: none.
template <class T>
struct PeepholeWeights {
  const T* data;
  int64_t stride[4];
};

template <class T>
struct ForwardTensors {
  using A = accumulation_t<T>;
  const T* x;         // (T, N, Cin, H, W)
  const T* weight_x;  // (4C, Cin, k, k)
  const T* weight_h;  // (4C, C, k, k)
  const T* bias;      // (4C) or null
  PeepholeWeights<T> peephole;
  const T* h_0;  // (N, C, H, W), or null for zeros
  const T* c_0;  // (N, C, H, W), null together with h_0
  T* output;     // (T, N, C, H, W): h_t at frame t
  T* c_n;        // (N, C, H, W): the cell state after the last step
  T* gates;      // (T, N, 4, C, H, W): activated i, f, o, g for backward, or null
  A* cells;      // (T, N, C, H, W): c_t for backward, or null; not null with gates
  A* packed;     // forward_packed<T>(layer) elements: the weights as the kernels read them
  bool is_packed;  // by an earlier call with the same weights; else they are packed first
  A* workspace;  // forward_workspace<T>(layer, cells) elements; both are aligned to 16 bytes
};

template <class T>
int64_t forward_packed(const Layer& layer);

// cells: whether the cells are stored.
template <class T>
int64_t forward_workspace(const Layer& layer, bool cells);

template <class T>
int forward(const Layer& layer, const ForwardTensors<T>& tensors, Stream stream);

// Gradients may be null where not needed. Those of h_0 and c_0 are also defined when h_0 and c_0 are null (zeros).
template <class T>
struct BackwardTensors {
  using A = accumulation_t<T>;
  const T* grad_output;  // (T, N, C, H, W), or null for zeros
  const T* grad_c_n;     // (N, C, H, W), or null for zeros
  const T* x;            // as in ForwardTensors, from here ...
  const T* weight_x;
  const T* weight_h;
  const T* bias;
  PeepholeWeights<T> peephole;
  const T* h_0;
  const T* c_0;
  const T* output;
  const T* gates;  // null: computed again, from cells and output
  const A* cells;  // ... to here
  T* grad_x;         // (T, N, Cin, H, W); where several layers share it, their sum
  const T* grad_x_before;  // (T, N, Cin, H, W), or null: is added to grad_x
  T* grad_weight_x;  // (4C, Cin, k, k)
  T* grad_weight_h;  // (4C, C, k, k)
  T* grad_bias;      // (4C)
  T* grad_peephole;  // (3, C, H, W)
  T* grad_h_0;       // (N, C, H, W)
  T* grad_c_0;       // (N, C, H, W)
  A* workspace;      // backward_workspace<T>(layer, gates) elements, aligned to 16 bytes
};

// Elements of BackwardTensors::workspace; gates: whether they are saved.
template <class T>
int64_t backward_workspace(const Layer& layer, bool gates);

// Whether backward goes through a few steps at a time, to save memory: over long sequences, where the gates were not saved
// for the same reason.
bool backward_in_chunks(const Layer& layer, bool gates);

template <class T>
int backward(const Layer& layer, const BackwardTensors<T>& tensors, Stream stream);

}  // namespace pdb::cuda
