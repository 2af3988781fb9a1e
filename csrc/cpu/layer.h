// One ConvLSTM layer over a whole sequence on the CPU, forward and backward, and the merge of two, float or double. No
// torch: the only interface between the kernels and their callers. 4C rows are the gates i, f, o, g, C rows each.
#pragma once

#include <cstdint>
#include <functional>

namespace pdb::cpu {

// Runs body(begin, end) over parts of [0, size), each of at least `grain` unless it is the last, perhaps at once.
using ParallelFor = void (*)(int64_t size, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

struct Threads {
  ParallelFor parallel_for;
  int count;  // that parallel_for uses at most
};

// Sizes and options of the layer. All sizes but batch are at least 1; dilation is at most max(height, width).
struct Layer {
  int64_t steps, batch;           // T, N
  int64_t in_channels, channels;  // Cin, C
  int64_t height, width;          // H, W
  int64_t kernel, dilation;       // k odd; zero padding dilation*(k-1)/2, the convolutions keep H and W
  bool reverse;                   // runs t = T-1 ... 0
  bool peephole_current;          // the output gate reads c_t rather than c_{t-1}
};

// A tensor (T, N, channels, H, W) of any strides, in elements.
template <class T>
struct Frames {
  T* data;
  int64_t step, image, channel, row, column;
};

// Peephole weights (3, C, H, W), rows i, f, o, of any strides. Null data: none.
template <class T>
struct PeepholeWeights {
  const T* data;
  int64_t gate, channel, row, column;
};

// Contiguous unless strides are given.
template <class T>
struct ForwardTensors {
  Frames<const T> x;  // (T, N, Cin, H, W)
  const T* weight_x;  // (4C, Cin, k, k)
  const T* weight_h;  // (4C, C, k, k)
  const T* bias;      // (4C) or null
  PeepholeWeights<T> peephole;
  const T* h_0;       // (N, C, H, W), or null for zeros
  const T* c_0;       // (N, C, H, W), null together with h_0
  T* output;          // (T, N, C, H, W): h_t at frame t
  T* c_n;             // (N, C, H, W): the cell state after the last step
  T* gates;           // (T, N, H, W, 4C): activated i, f, o, g for backward, or null
  T* cells;           // (T, N, H, W, C): c_t for backward, or null; not null with gates
};

template <class T>
void forward(const Layer& layer, const ForwardTensors<T>& tensors, const Threads& threads);

// Gradients may be null where not needed. Those of h_0 and c_0 are also defined when h_0 and c_0 are null (zeros).
template <class T>
struct BackwardTensors {
  Frames<const T> grad_output;  // (T, N, C, H, W); null data for zeros
  const T* grad_c_n;            // (N, C, H, W), or null for zeros
  Frames<const T> x;            // as in ForwardTensors, from here ...
  const T* weight_x;
  const T* weight_h;
  const T* bias;
  PeepholeWeights<T> peephole;
  const T* h_0;
  const T* c_0;
  const T* output;
  const T* gates;               // null: computed again, from cells and output
  const T* cells;               // ... to here
  T* grad_x;                    // (T, N, Cin, H, W)
  T* grad_weight_x;             // (4C, Cin, k, k)
  T* grad_weight_h;             // (4C, C, k, k)
  T* grad_bias;                 // (4C)
  T* grad_peephole;             // (3, C, H, W)
  T* grad_h_0;                  // (N, C, H, W)
  T* grad_c_0;                  // (N, C, H, W)
};

template <class T>
void backward(const Layer& layer, const BackwardTensors<T>& tensors, const Threads& threads);

// Eq. 5 of Song et al. 2018 over a whole sequence: output = tanh(conv(h_f, weight_f) + conv(h_b, weight_b) + bias).
template <class T>
struct MergeTensors {
  Frames<const T> h_f, h_b;  // (T, N, C, H, W)
  const T* weight_f;         // (C, C, k, k)
  const T* weight_b;         // (C, C, k, k)
  const T* bias;             // (C) or null
  T* output;                 // (T, N, C, H, W)
};

// Of the layer, in_channels must be channels; reverse and peephole_current do not matter.
template <class T>
void merge(const Layer& layer, const MergeTensors<T>& tensors, const Threads& threads);

}  // namespace pdb::cpu
