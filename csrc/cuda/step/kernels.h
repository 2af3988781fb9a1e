// Launchers of the single kernels that the time loops (sequence_forward.cpp, sequence_backward.cpp) string together.
// Conventions as in sequence.h.
#pragma once

#include "cuda/layer.h"

namespace pdb::cuda {

// A convolution weight (rows, columns, k, k) packed for the convolution core: (depth, k*k, pitch), where the pitch is
// the number of outputs rounded up to kPackedColumns and the columns in excess are zero.
//   gates:      depth = columns (input channels), outputs = rows = 4C in the order c*4 + gate
//   transposed: depth = rows, outputs = columns, taps mirrored: the kernel of the data gradient
constexpr int64_t kPackedColumns = 32;

PDB_HD int64_t packed_pitch(int64_t outputs) {
  return (outputs + kPackedColumns - 1) / kPackedColumns * kPackedColumns;
}

// For the tensor-core kernels (names with mma) a weight is packed as fragments: for every block of 16 outputs, every
// mma_steps<T> of depth, every tap and every lane its four words of the product's left operand (mma.h). Outputs are
// padded to whole thread blocks of 8 (gates) or 2 (transposed) such blocks; the blocks of gates are in turn i and f, o
// and g of 8 channels. These kernels take T = float (TF32), Half and BFloat16, and dilation*(k/2) up to kMmaMaxRadius.
constexpr int kMmaGatesBlocks = 8, kMmaTransposedBlocks = 2, kMmaMaxRadius = 8;

enum class Packing { gates, transposed };

// A weight (rows, columns, k, k) to be packed in one of these ways; packed: packed_size() elements.
template <class T>
struct WeightToPack {
  const T* weight;
  int64_t rows, columns, kernel;
  Packing packing;
  bool tensor_cores;
  accumulation_t<T>* packed;
};

template <class T>
int64_t packed_size(const WeightToPack<T>& weight);

constexpr int kMaxWeightsToPack = 32;

// All of them in one launch.
template <class T>
int launch_pack_weights(const WeightToPack<T>* weights, int count, Stream stream);

// One time step: both convolutions, the cell, and its new state.
//
// The convolution of x is part of the step rather than hoisted over all steps before it. Reasoned on paper, not measured:
// hoisting takes half of the products off the chain of steps, but writes and reads 2 * 4C floats a pixel and step, and
// needs memory for all steps. It wins where a step leaves multiprocessors idle, that is for layers of fewer tiles than
// multiprocessors, and those run in one persistent launch, which computes x's part while it waits for its neighbours.
// A step that fills the GPU takes the same time for its products wherever they run. Layers with products large enough to
// outweigh the traffic take the path with hoisted convolutions by cuDNN (choose_path.cpp).
template <class T>
struct ForwardStep {
  using A = accumulation_t<T>;
  const T* x;             // (N, Cin, H, W)
  const T* h_previous;    // (N, C, H, W), or null for zeros
  const A* c_previous;    // (N, C, H, W), or null: c_0 then
  const T* c_0;           // (N, C, H, W), or null for zeros
  const A* weight_x;      // (4C, Cin, k, k) packed as gates
  const A* weight_h;      // (4C, C, k, k) packed as gates
  const T* bias;          // (4C) or null
  PeepholeWeights<T> peephole;
  T* h;      // (N, C, H, W), or null
  A* c;      // (N, C, H, W), or null; may be the same as c_previous
  T* c_n;    // (N, C, H, W), or null: also c, rounded
  T* gates;  // (N, 4, C, H, W): activations, or null
};

template <class T>
int launch_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream);

// One step of backward through time: the gradient of h_t (from the output and from step t+1), then the cell's.
template <class T>
struct BackwardStep {
  using A = accumulation_t<T>;
  const T* grad_output;   // (N, C, H, W) at this frame, or null for zeros
  const T* grad_gates_next;  // (N, 4C, H, W): pre-activation gradients of the step that ran after this one, or null
  const A* weight_h;      // (4C, C, k, k) packed as transposed
  const T* gates;         // (N, 4, C, H, W)
  const A* c;             // (N, C, H, W): c_t
  const A* c_previous;    // (N, C, H, W), or null: c_0 then
  const T* c_0;           // (N, C, H, W), or null for zeros
  PeepholeWeights<T> peephole;
  const T* grad_c_n;      // (N, C, H, W), or null for zeros; read where grad_gates_next is null (the last step)
  A* grad_c;              // (N, C, H, W): in, the gradient of c_t (ignored at the last step); out, of c_{t-1}
  T* grad_c_0;            // (N, C, H, W), or null: also the outgoing grad_c, rounded
  T* grad_gates;          // (N, 4C, H, W): gradients of the pre-activations; may be the same as gates
};

template <class T>
int launch_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream);

// Data gradient of one convolution, or of several over the same input, whose sum it is then.
//   grad_gates: (images, 4C, H, W);  weight: (4C, channels, k, k) packed as transposed
template <class T>
struct DataGradient {
  const T* grad_gates;
  const accumulation_t<T>* weight;
  int64_t dilation;
};

constexpr int kMaxDataGradients = 8;

template <class T>
struct DataGradients {
  DataGradient<T> parts[kMaxDataGradients];
  int count;
  const T* before;  // (images, channels, H, W), or null: is added
};

// grad_input (images, channels, H, W) = the sum of the parts, whose layers differ from `layer` in the dilation alone.
template <class T>
int launch_input_gradient(const Layer& layer, int64_t images, int64_t channels, const DataGradients<T>& gradients,
                          T* grad_input, Stream stream);

template <class T>
int launch_mma_input_gradient(const Layer& layer, int64_t images, int64_t channels, const DataGradients<T>& gradients,
                              T* grad_input, Stream stream);

// Images that a weight gradient is summed over: input (images, channels, H, W) under grad_gates (images, 4C, H, W).
template <class T>
struct ImagePairs {
  const T* input;
  const T* grad_gates;
  int64_t images;
};

// Where a sum over some of the steps goes: it begins with what `before` holds (null: zero), and ends in `gradient` or, if
// that is null, in `sum`, which may be the same array as `before`.
template <class T>
struct SumTarget {
  const accumulation_t<T>* before;
  T* gradient;
  accumulation_t<T>* sum;
};

// The weight gradient (4C, channels, k, k) of one convolution, summed over two sets of images.
template <class T>
struct WeightGradient {
  Layer layer;  // of which steps, batch and in_channels are not read
  int64_t channels;
  ImagePairs<T> first, second;
  SumTarget<T> target;
};

constexpr int kMaxWeightGradients = 16;

// All weight gradients of a launch are divided among its blocks together, so that few steps of one small layer, too, keep
// all multiprocessors busy; the parts are stored, and added in a fixed order by a second launch, so that every run gives
// the same bits. tiles: of all weights that may be in the launch (weight_gradient_tiles), whether they are or not.
template <class T>
int64_t weight_gradient_tiles(const Layer& layer, int64_t channels);

// Elements of A of the workspace of one weight gradient in a launch of so many tiles, over this many images or fewer.
template <class T>
int64_t weight_gradient_workspace(const Layer& layer, int64_t images, int64_t channels, int64_t tiles);

// All of the gradients' layers, or none, have `tensor_cores`.
template <class T>
int launch_weight_gradients(const WeightGradient<T>* gradients, int count, int64_t tiles, accumulation_t<T>* workspace,
                            Stream stream);

// Its first half on tensor cores; the second adds what the splits have given.
template <class T>
int launch_mma_weight_products(const WeightGradient<T>* gradients, int count, int64_t tiles, float* workspace,
                               Stream stream);

// partial (splits, count) summed over the splits, in order.
template <class T>
struct SplitSum {
  const accumulation_t<T>* partial;
  int64_t splits, count;
  SumTarget<T> target;
};

template <class T>
int launch_add_splits(const SplitSum<T>* sums, int count, Stream stream);

// The gradient of a bias (4C): grad_gates (images, 4C, H, W) summed over images and pixels, in a fixed order.
template <class T>
struct BiasGradient {
  const T* grad_gates;
  int64_t images, rows, pixels;
  SumTarget<T> target;
};

constexpr int kMaxBiasGradients = 8;

template <class T>
int launch_bias_gradients(const BiasGradient<T>* gradients, int count, Stream stream);

// grad_peephole (3, C, H, W) from grad_gates (frames, N, 4C, H, W) of the frames from `first` on, cells (T, N, C, H, W) of
// all and c_0 (N, C, H, W; null: zeros).
template <class T>
int launch_peephole_gradient(const Layer& layer, int64_t first, int64_t frames, const T* grad_gates,
                             const accumulation_t<T>* cells, const T* c_0, const SumTarget<T>& target, Stream stream);

}  // namespace pdb::cuda
