// What the weight-gradient kernels share: the product of the gate gradients (rows x pixels) with the shifted inputs
// (pixels x (channel, tap)) of all images, how it is divided among blocks, and the reading of its operands. It is split
// over the pixels; the partial products are stored and added in a fixed order, so that no atomics are needed and every
// run gives the same bits.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "launch.h"
#include "window.h"

namespace pdb::cuda {

constexpr int kWeightThreads = 128;
constexpr int kBlockRows = 128, kBlockColumns = 32;  // a block's part of the weight
constexpr int kChunk = 32;                           // pixels in shared memory at a time: one per lane

// How the product is divided. Depends on the sizes alone, never on the device.
struct WeightPlan {
  static constexpr int64_t kSplitPixels = 2048;
  static constexpr int64_t kMaxBlocks = 1024;  // bounds the workspace

  // At most max_splits splits are made, which grows with the number of images: workspace for some is enough for fewer.
  int64_t rows, columns, row_blocks, column_blocks, max_splits, splits, split_pixels;

  WeightPlan(const Layer& layer, int64_t images, int64_t channels)
      : rows(4 * layer.channels), columns(channels * layer.taps()), row_blocks(divide_up(rows, kBlockRows)),
        column_blocks(divide_up(columns, kBlockColumns)) {
    const int64_t pixels = images * layer.pixels(), blocks = row_blocks * column_blocks;
    max_splits = std::min(divide_up(pixels, kSplitPixels), divide_up(kMaxBlocks, blocks));
    split_pixels = divide_up(divide_up(pixels, std::max<int64_t>(max_splits, 1)), kChunk) * kChunk;
    splits = split_pixels ? divide_up(pixels, split_pixels) : 0;  // no pixels (T = 1 without h_0): a sum of nothing
  }

  int64_t blocks() const { return row_blocks * column_blocks * splits; }

  __device__ int64_t first_row() const { return blockIdx.x % row_blocks * kBlockRows; }
  __device__ int64_t first_column() const { return blockIdx.x / row_blocks % column_blocks * kBlockColumns; }
  __device__ int64_t split() const { return blockIdx.x / row_blocks / column_blocks; }

 private:
  static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

// A column of the weight: the tap's shift, and the offset of (channel, shift) from a pixel of the image.
struct Column {
  int64_t y, x, offset;
};

// Shared memory of a block: kPitch elements for a row's or column's chunk.
template <class E, int kPitch>
struct alignas(16) WeightStorage {
  Column column[kBlockColumns];
  E grad[kBlockRows * kPitch];
  E input[kBlockColumns * kPitch];
};

__device__ __forceinline__ Column make_column(const Layer& layer, int64_t column) {
  const int64_t tap = column % layer.taps(), channel = column / layer.taps();
  const int64_t y = (tap / layer.kernel - layer.kernel / 2) * layer.dilation;
  const int64_t x = (tap % layer.kernel - layer.kernel / 2) * layer.dilation;
  return {y, x, channel * layer.pixels() + y * layer.width + x};
}

// The pixels of two sets of images in a row, and the block's rows and columns of the product over them.
template <class T>
struct WeightProduct {
  using A = accumulation_t<T>;
  Layer layer;
  WeightPlan plan;
  int64_t channels;
  ImagePairs<T> one, two;

  __device__ int64_t begin() const { return plan.split() * plan.split_pixels; }
  __device__ int64_t end() const {
    const int64_t pixels = (one.images + two.images) * layer.pixels(), limit = begin() + plan.split_pixels;
    return limit < pixels ? limit : pixels;
  }

  // Reads pixels [first, first + kChunk), cut off at end(); lane = pixel. convert: of a T or an A to an element.
  template <class E, int kPitch, class Convert>
  __device__ __forceinline__ void load(int64_t first, WeightStorage<E, kPitch>& storage, const Convert& convert) const {
    const bool valid = first + lane() < end();
    const int64_t at = valid ? first + lane() : 0;
    const int64_t image = at / layer.pixels(), pixel = at % layer.pixels();
    const int64_t y = pixel / layer.width, x = pixel % layer.width;
    const ImagePairs<T>& pairs = image < one.images ? one : two;
    const int64_t index = image < one.images ? image : image - one.images;
    const A* grad = pairs.grad_gates + (index * plan.rows + plan.first_row()) * layer.pixels() + pixel;
    const T* input = pairs.input + index * channels * layer.pixels() + pixel;
    for (int r = warp(); r < kBlockRows; r += kWeightThreads / 32)
      storage.grad[r * kPitch + lane()] =
          convert(valid && plan.first_row() + r < plan.rows ? grad[r * layer.pixels()] : A(0));
    for (int c = warp(); c < kBlockColumns; c += kWeightThreads / 32) {
      const Column column = storage.column[c];
      const bool inside = valid && plan.first_column() + c < plan.columns && y + column.y >= 0 &&
                          y + column.y < layer.height && x + column.x >= 0 && x + column.x < layer.width;
      storage.input[c * kPitch + lane()] = inside ? convert(input[column.offset]) : convert(A(0));
    }
  }

  // Calls multiply() for every chunk in shared memory.
  template <class E, int kPitch, class Convert, class Multiply>
  __device__ __forceinline__ void for_each_chunk(WeightStorage<E, kPitch>& storage, const Convert& convert,
                                                 const Multiply& multiply) const {
    if (threadIdx.x < kBlockColumns)
      storage.column[threadIdx.x] = make_column(layer, plan.first_column() + threadIdx.x);
    for (int64_t first = begin(); first < end(); first += kChunk) {
      __syncthreads();  // the columns are known, the previous chunk has been used
      load(first, storage, convert);
      __syncthreads();
      multiply();
    }
  }

  // Where the block's element (row, column) of the partial product goes; null beyond the weight.
  __device__ __forceinline__ A* target(A* partial, int row, int column) const {
    const int64_t r = plan.first_row() + row, c = plan.first_column() + column;
    return r < plan.rows && c < plan.columns ? partial + (plan.split() * plan.rows + r) * plan.columns + c : nullptr;
  }
};

}  // namespace pdb::cuda
