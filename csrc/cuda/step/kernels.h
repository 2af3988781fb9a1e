// The launchers of the single kernels that cuda/forward.cpp and cuda/backward.cpp combine. Conventions as in
// cuda/common/layer.h.
#pragma once

#include "cuda/common/step.h"

namespace pdb::cuda {

// A convolution weight (rows, columns, k, k) packed for the convolution core: (depth, k*k, pitch), where the pitch is
// the number of outputs rounded up to kPackedColumns, and the excess columns are zero.
//   gates:      depth = columns (input channels), outputs = rows = gates * C in the order c * gates + gate
//   transposed: depth = rows, outputs = columns, taps mirrored: the kernel of the data gradient
constexpr int64_t kPackedColumns = 32;

PDB_HD int64_t packed_pitch(int64_t outputs) {
  return (outputs + kPackedColumns - 1) / kPackedColumns * kPackedColumns;
}

// The tensor-core kernels (names with mma) take a weight packed as fragments: for every block of 16 outputs, every
// mma_steps<T> of depth, every tap and every lane the four words of the product's left operand (mma.h). Outputs are
// padded to whole thread blocks of 8 (gates) or 2 (transposed) such blocks; gates are ordered by mma_gate_row(). These
// kernels take T = float (TF32), Half and BFloat16, and dilation*(k/2) up to kMmaMaxRadius.
constexpr int kMmaGatesBlocks = 8, kMmaTransposedBlocks = 2, kMmaMaxRadius = 8;

enum class Packing { gates, transposed };

// A weight (rows, columns, k, k) to be packed in one of these ways; packed: packed_size() elements. The rows are those
// of 1, 2 or 4 gates.
template <class T>
struct WeightToPack {
  const T* weight;
  int64_t rows, columns, kernel, gates;
  Packing packing;
  bool tensor_cores;
  accumulation_t<T>* packed;
};

template <class T>
int64_t packed_size(const WeightToPack<T>& weight);

constexpr int kMaxWeightsToPack = 32;

// Packs all of them in one launch.
template <class T>
int launch_pack_weights(const WeightToPack<T>* weights, int count, Stream stream);

template <class T>
int launch_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream);

template <class T>
int launch_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream);

template <class T>
int launch_mma_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream);

// Data gradient of one convolution, or the sum of those of several convolutions over the same input.
//   grad_gates: (images, rows, H, W);  weight: (rows, channels, k, k) packed as transposed
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

// grad_input (images, channels, H, W) = the sum of the parts, whose layers differ from `layer` only in the dilation.
template <class T>
int launch_input_gradient(const Layer& layer, int64_t images, int64_t rows, int64_t channels,
                          const DataGradients<T>& gradients, T* grad_input, Stream stream);

template <class T>
int launch_mma_input_gradient(const Layer& layer, int64_t images, int64_t rows, int64_t channels,
                              const DataGradients<T>& gradients, T* grad_input, Stream stream);

// Images over which a weight gradient is summed: input (images, channels, H, W) and grad_gates (images, all rows, H,
// W), from the weight's first row on.
template <class T>
struct ImagePairs {
  const T* input;
  const T* grad_gates;
  int64_t images;
};

// The target of a sum over some of the steps: the sum starts from `before` (null: zero) and is stored in `gradient` or,
// if that is null, in `sum`, which may be the same array as `before`.
template <class T>
struct SumTarget {
  const accumulation_t<T>* before;
  T* gradient;
  accumulation_t<T>* sum;
};

// The shape of a weight gradient (rows, channels, k, k). all_rows: of the array that has its gate gradients.
struct WeightShape {
  Layer layer;  // steps, batch and in_channels are not read
  int64_t rows, all_rows, channels;

  // For all gates of a layer.
  WeightShape() = default;
  WeightShape(const Layer& layer, int64_t rows, int64_t channels) : WeightShape(layer, rows, rows, channels) {}
  WeightShape(const Layer& layer, int64_t rows, int64_t all_rows, int64_t channels)
      : layer(layer), rows(rows), all_rows(all_rows), channels(channels) {}
};

// The weight gradient of one convolution, summed over two sets of images.
template <class T>
struct WeightGradient {
  WeightShape shape;
  ImagePairs<T> first, second;
  SumTarget<T> target;
};

constexpr int kMaxWeightGradients = 16;

// All weight gradients of a launch are divided among its blocks together, so that even few steps of one small layer
// keep all multiprocessors busy. The parts are stored, and a second launch adds them in a fixed order, so that every
// run gives the same bits. tiles: the number for all weights that the launch may have (weight_gradient_tiles), whether
// it has them or not.
template <class T>
int64_t weight_gradient_tiles(const WeightShape& shape);

// The number of A's elements in the workspace of one weight gradient in a launch of so many tiles, over this many
// images or fewer.
template <class T>
int64_t weight_gradient_workspace(const WeightShape& shape, int64_t images, int64_t tiles);

// Either all of the gradients' layers have `tensor_cores` or none.
template <class T>
int launch_weight_gradients(const WeightGradient<T>* gradients, int count, int64_t tiles, accumulation_t<T>* workspace,
                            Stream stream);

// Its first part on tensor cores; the second part adds the splits.
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

// The gradient of a bias (rows): grad_gates (images, rows, H, W) summed over images and pixels, in a fixed order.
template <class T>
struct BiasGradient {
  const T* grad_gates;
  int64_t images, rows, pixels;
  SumTarget<T> target;
};

constexpr int kMaxBiasGradients = 8;

template <class T>
int launch_bias_gradients(const BiasGradient<T>* gradients, int count, Stream stream);

// grad_peephole (3, C, H, W) from grad_gates (frames, N, 4C, H, W) of the frames from `first` on, and the cells (T, N,
// C, H, W) and c_0 (N, C, H, W; null: zeros) of the whole sequence.
template <class T>
int launch_peephole_gradient(const Layer& layer, int64_t first, int64_t frames, const T* grad_gates,
                             const accumulation_t<T>* cells, const T* c_0, const SumTarget<T>& target, Stream stream);

}  // namespace pdb::cuda
