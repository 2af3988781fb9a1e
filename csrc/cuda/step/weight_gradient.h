// What the weight-gradient kernels share: the product of the gate gradients (rows x pixels) with the shifted inputs
// (pixels x (channel, tap)) of all images, how it is divided among blocks, and the reading of its operands. It is split
// over the pixels; the partial products are stored and added in a fixed order (sum_gradients.cu), so that no atomics
// are needed and every run gives the same bits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/common/jobs.h"
#include "cuda/common/window.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {

constexpr int kWeightThreads = 128;
constexpr int kBlockRows = 128;  // a block's part of the weight: these rows, kColumns columns
constexpr int kChunk = 32;       // pixels in shared memory at a time: one per lane

// Columns of a block. On tensor cores as many as there are registers for sums: 32 channels times nine taps are three
// blocks, each of which reads the gate gradients once.
constexpr int kFmaBlockColumns = 32, kMmaBlockColumns = 96;

template <class T>
bool weight_gradient_on_tensor_cores(const Layer& layer) {
  return layer.tensor_cores && !std::is_same_v<T, double>;
}

// How a weight gradient is divided. Depends only on sizes, never on the device.
struct WeightPlan {
  static constexpr int64_t kSplitPixels = 768;  // of a split, at least
  // The most blocks of a launch, unless it has more tiles: three per multiprocessor of an H100, as many as its
  // registers hold. One more would start when another ends, and the whole launch would wait for it.
  static constexpr int64_t kMaxBlocks = 396;

  // At most max_splits splits are made, a number that grows with the number of images: workspace for some images is
  // enough for fewer.
  int64_t rows, columns, row_blocks, column_blocks, max_splits, splits, split_pixels;

  // tiles: of the whole launch.
  WeightPlan(const WeightShape& shape, int64_t images, int64_t tiles, bool tensor_cores)
      : rows(shape.rows),
        columns(shape.channels * shape.layer.taps()),
        row_blocks(divide_up(rows, kBlockRows)),
        column_blocks(divide_up(columns, tensor_cores ? kMmaBlockColumns : kFmaBlockColumns)) {
    const int64_t pixels = images * shape.layer.pixels();
    max_splits =
        std::min(divide_up(pixels, kSplitPixels), std::max<int64_t>(kMaxBlocks / std::max<int64_t>(tiles, 1), 1));
    split_pixels = divide_up(divide_up(pixels, std::max<int64_t>(max_splits, 1)), kChunk) * kChunk;
    splits = split_pixels ? divide_up(pixels, split_pixels) : 0;  // no pixels (T = 1 without h_0): an empty sum
  }

  int64_t tiles() const { return row_blocks * column_blocks; }
  int64_t blocks() const { return tiles() * splits; }
  int64_t partial() const { return max_splits * rows * columns; }  // elements

 private:
  static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
};

// A column of the weight: the tap's shift, and the offset of (channel, shift) from a pixel of the image.
struct Column {
  int64_t offset;
  int y, x;
};

// Shared memory of a block: kPitch elements for a row's or column's chunk.
template <class E, int kColumns, int kPitch>
struct alignas(16) WeightStorage {
  Column column[kColumns];
  E grad[kBlockRows * kPitch];
  E input[kColumns * kPitch];
};

// Sixteen bytes of an array of T.
template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T value[kSize];
};

// One weight gradient of a launch: the pixels of two consecutive sets of images, and the rows and columns of the
// product.
template <class T>
struct WeightJob {
  int64_t height, width, kernel, dilation, channels;
  int64_t rows, all_rows, columns, row_blocks, column_blocks, split_pixels;
  ImagePairs<T> one, two;
  accumulation_t<T>* partial;  // (splits, rows, columns)

  __device__ int64_t pixels() const { return height * width; }
};

template <class T>
using WeightJobs = Jobs<WeightJob<T>, kMaxWeightGradients>;

// What one block computes: kBlockRows x kColumns elements of one split of one job.
template <class T, int kColumns>
struct WeightProduct {
  using A = accumulation_t<T>;
  using Group = Vector<T>;
  const WeightJob<T>& job;
  int64_t first_row, first_column, split, begin, end;  // pixels [begin, end)
  int rows, columns;                                   // of the block that are in the weight

  __device__ explicit WeightProduct(const WeightJobs<T>& all) : WeightProduct(all, all.find()) {}
  __device__ WeightProduct(const WeightJobs<T>& all, int index) : job(all.jobs[index]) {
    const int64_t block = blockIdx.x - all.first_block[index], column_block = quotient(block, job.row_blocks);
    split = quotient(column_block, job.column_blocks);
    first_row = (block - column_block * job.row_blocks) * kBlockRows;
    first_column = (column_block - split * job.column_blocks) * kColumns;
    rows = int(job.rows - first_row < kBlockRows ? job.rows - first_row : kBlockRows);
    columns = int(job.columns - first_column < kColumns ? job.columns - first_column : kColumns);
    const int64_t pixels = (job.one.images + job.two.images) * job.pixels();
    begin = split * job.split_pixels;
    end = begin + job.split_pixels < pixels ? begin + job.split_pixels : pixels;
  }

  __device__ __forceinline__ Column make_column(int64_t column) const {
    const int64_t taps = job.kernel * job.kernel, channel = quotient(column, taps), tap = column - channel * taps;
    const int64_t tap_y = quotient(tap, job.kernel), tap_x = tap - tap_y * job.kernel;
    const int64_t y = (tap_y - job.kernel / 2) * job.dilation, x = (tap_x - job.kernel / 2) * job.dilation;
    return {channel * job.pixels() + y * job.width + x, int(bounded(y, job.height)), int(bounded(x, job.width))};
  }
  // A shift by a whole side of the image leads out of it as a larger one does, and fits in an int.
  static __device__ int64_t bounded(int64_t shift, int64_t side) {
    return shift > side ? side : shift < -side ? -side : shift;
  }

  // A pixel of the job: its image, and its place there.
  struct At {
    int64_t image, pixel;
    unsigned y, x;
  };
  __device__ __forceinline__ At locate(int64_t at) const {
    const int64_t image = quotient(at, job.pixels()), pixel = at - image * job.pixels(), y = quotient(pixel, job.width);
    return {image, pixel, unsigned(y), unsigned(pixel - y * job.width)};
  }
  // The pixel a chunk later, without a division.
  __device__ __forceinline__ void advance(At& at) const {
    at.pixel += kChunk, at.x += kChunk;
    while (at.x >= unsigned(job.width)) at.x -= unsigned(job.width), ++at.y;
    while (at.pixel >= job.pixels()) at.pixel -= job.pixels(), at.y -= unsigned(job.height), ++at.image;
  }
  __device__ __forceinline__ const T* gradients(const At& at) const {
    const bool first = at.image < job.one.images;
    return (first ? job.one.grad_gates : job.two.grad_gates) + at.pixel +
           ((first ? at.image : at.image - job.one.images) * job.all_rows + first_row) * job.pixels();
  }
  __device__ __forceinline__ const T* input(const At& at) const {
    const bool first = at.image < job.one.images;
    return (first ? job.one.input : job.two.input) + at.pixel +
           (first ? at.image : at.image - job.one.images) * job.channels * job.pixels();
  }

  // Whether sixteen bytes of pixels never lie in two images; if so, one load reads them.
  __device__ __forceinline__ bool in_groups() const { return job.pixels() % Group::kSize == 0; }
  // The first pixel in the chunk of those whose gradients this thread reads.
  __device__ __forceinline__ int own_gradient() const {
    return in_groups() ? threadIdx.x % (kChunk / Group::kSize) * Group::kSize : lane();
  }

  // Reads the gate gradients of a chunk; `valid`: whether this thread's pixels are before the end. Rows beyond the
  // weight are zeros. All loads are from valid addresses, and many are issued before the first is used, here and below,
  // so that a chunk waits for L2 only a few times.
  template <class E, int kPitch, class Convert>
  __device__ __forceinline__ void load_gradient_groups(const T* grad, bool valid,
                                                       WeightStorage<E, kColumns, kPitch>& storage,
                                                       const Convert& convert) const {
    constexpr int kGroups = kChunk / Group::kSize, kStride = kWeightThreads / kGroups, kLoads = kBlockRows / kStride;
    constexpr int kBatch = kLoads < 8 ? kLoads : 8;
    const int within = threadIdx.x % kGroups * Group::kSize, row = threadIdx.x / kGroups;
    int64_t offset = row * job.pixels();
#pragma unroll
    for (int load = 0; load < kLoads; load += kBatch) {
      Group group[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i, offset += kStride * job.pixels())
        group[i] = *reinterpret_cast<const Group*>(grad + (row + (load + i) * kStride < rows ? offset : 0));
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int r = row + (load + i) * kStride;
        store_group<E, kPitch>(storage.grad + r * kPitch + within, group[i], valid && r < rows, convert);
      }
    }
  }

  template <class E, int kPitch, class Convert>
  static __device__ __forceinline__ void store_group(E* target, const Group& group, bool valid,
                                                     const Convert& convert) {
    constexpr int kPer = 16 / sizeof(E) < Group::kSize ? 16 / sizeof(E) : Group::kSize;
    if constexpr (kPitch * sizeof(E) % 16 == 0 && kPer * sizeof(E) == 16) {
#pragma unroll
      for (int i = 0; i < Group::kSize; i += kPer) {
        Vector<E> converted;
#pragma unroll
        for (int j = 0; j < kPer; ++j) converted.value[j] = valid ? convert(group.value[i + j]) : E(0);
        reinterpret_cast<Vector<E>*>(target)[i / kPer] = converted;
      }
    } else {
#pragma unroll
      for (int i = 0; i < Group::kSize; ++i) target[i] = valid ? convert(group.value[i]) : E(0);
    }
  }

  template <class E, int kPitch, class Convert>
  __device__ __forceinline__ void load_single_gradients(const T* grad, bool valid,
                                                        WeightStorage<E, kColumns, kPitch>& storage,
                                                        const Convert& convert) const {
    constexpr int kStride = kWeightThreads / 32, kBatch = 16;
    int64_t offset = warp() * job.pixels();
#pragma unroll
    for (int load = 0; load < kBlockRows / kStride; load += kBatch) {
      T value[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i, offset += kStride * job.pixels())
        value[i] = grad[warp() + (load + i) * kStride < rows ? offset : 0];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int r = warp() + (load + i) * kStride;
        storage.grad[r * kPitch + lane()] = valid && r < rows ? convert(value[i]) : E(0);
      }
    }
  }

  // Reads the block's columns of the input at the same pixels; lane = pixel, which is at (y, x).
  template <class E, int kPitch, class Convert>
  __device__ __forceinline__ void load_inputs(const T* input, unsigned y, unsigned x, bool valid,
                                              WeightStorage<E, kColumns, kPitch>& storage,
                                              const Convert& convert) const {
    constexpr int kStride = kWeightThreads / 32, kLoads = kColumns / kStride, kBatch = kLoads < 12 ? kLoads : 12;
    static_assert(kLoads % kBatch == 0, "whole batches");
    const unsigned height = unsigned(job.height), width = unsigned(job.width);
#pragma unroll
    for (int load = 0; load < kLoads; load += kBatch) {
      T value[kBatch];
      bool inside[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int c = warp() + (load + i) * kStride;
        const Column column = storage.column[c];
        inside[i] = valid & (c < columns) & (y + unsigned(column.y) < height) & (x + unsigned(column.x) < width);
        value[i] = input[inside[i] ? column.offset : 0];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int c = warp() + (load + i) * kStride;
        storage.input[c * kPitch + lane()] = inside[i] ? convert(value[i]) : E(0);
      }
    }
  }

  // Calls multiply() for every chunk in shared memory.
  template <class Storage, class Convert, class Multiply>
  __device__ __forceinline__ void for_each_chunk(Storage& storage, const Convert& convert,
                                                 const Multiply& multiply) const {
    if (threadIdx.x < kColumns) storage.column[threadIdx.x] = make_column(first_column + threadIdx.x);
    At at = locate(begin + lane());
    for (int64_t first = begin; first < end; first += kChunk, advance(at)) {
      __syncthreads();  // the columns are known, the previous chunk has been used
      const int64_t own = first + own_gradient();
      const T* const grad = gradients(locate(own < end ? own : first));
      if (in_groups())
        load_gradient_groups(grad, own < end, storage, convert);
      else
        load_single_gradients(grad, own < end, storage, convert);
      const bool valid = first + lane() < end;
      const T* const anywhere = job.one.images > 0 ? job.one.input : job.two.input;
      load_inputs(valid ? input(at) : anywhere, at.y, at.x, valid, storage, convert);
      __syncthreads();
      multiply();
    }
  }

  // Stores the block's elements of a row of the partial product, except those beyond the weight. column(i), value(i):
  // of element i of kCount.
  template <int kCount, class ColumnOf, class Value>
  __device__ __forceinline__ void store_row(int row, const ColumnOf& column, const Value& value) const {
    if (row >= rows) return;
    A* const target = job.partial + (split * job.rows + first_row + row) * job.columns + first_column;
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (column(i) < columns) target[column(i)] = value(i);
  }
};

// Launches one of the kernels for all gradients.
template <class T>
int launch_weight_products(void (*kernel)(WeightJobs<T>), const WeightGradient<T>* gradients, int count, int64_t tiles,
                           accumulation_t<T>* workspace, Stream stream) {
  WeightJobs<T> all{};
  for (int i = 0; i < count; ++i) {
    const WeightGradient<T>& g = gradients[i];
    const Layer& l = g.shape.layer;
    const bool tensor_cores = weight_gradient_on_tensor_cores<T>(l);
    const WeightPlan plan(g.shape, g.first.images + g.second.images, tiles, tensor_cores);
    all.add({l.height, l.width, l.kernel, l.dilation, g.shape.channels, plan.rows, g.shape.all_rows, plan.columns,
             plan.row_blocks, plan.column_blocks, plan.split_pixels, g.first, g.second, workspace},
            plan.blocks());
    workspace += plan.partial();
  }
  return launch(kernel, all.blocks, kWeightThreads, stream, all);
}

}  // namespace pdb::cuda
