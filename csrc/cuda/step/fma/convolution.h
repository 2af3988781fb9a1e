// The convolution core of the FMA kernels: a block computes a tile of kTileWidth x kTileHeight output pixels for kWarps
// * kRows output rows of one image. Each input channel's tile with its dilated halo is read once into shared memory; if
// the halo does not fit there, the input is read from global memory instead.
//
// Every warp covers the whole tile, a lane per column, so that it reads the shared tile without bank conflicts; the
// warps split the output rows, so that they read weights as broadcasts.
#pragma once

#include "cuda/common/add.h"
#include "cuda/common/window.h"

namespace pdb::cuda {

constexpr int kTileWidth = 32;
constexpr int kTileHeight = 4;
constexpr int kPixels = kTileHeight;  // pixels of a thread: one column of the tile
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

// Shared memory of a block. Sizes keep the sum under 40 KB for float and double, below the static limit of 48 KB.
template <class A, int kRows>
struct alignas(16) ConvolutionStorage {
  static constexpr int kOutputs = kWarps * kRows;
  static constexpr int kDepth = 288 / static_cast<int>(sizeof(A));  // 72 or 36 (channel, tap) pairs
  static constexpr int kTileElements = 24576 / static_cast<int>(sizeof(A));
  A weight[kDepth * kOutputs];
  A tile[kTileElements];
};

constexpr int kLoadBatch = 4;  // loads of a thread that are in flight together

// Reads `channels` channels of the tile and its halo into shared memory; zeros outside the image.
template <class T, class A>
__device__ __forceinline__ void load_tile(const T* input, int channels, const Window& window, int tile_height,
                                          int tile_width, A* tile) {
  const Divisor width(tile_width), height(tile_height);
  const unsigned elements = channels * tile_height * tile_width;
  for (unsigned first = threadIdx.x; first < elements; first += kThreads * kLoadBatch) {
    T value[kLoadBatch] = {};
#pragma unroll
    for (int b = 0; b < kLoadBatch; ++b) {
      const unsigned e = first + b * kThreads, row = width.quotient(e), channel = height.quotient(row);
      const int64_t y = window.y - window.radius() + (row - channel * tile_height);
      const int64_t x = window.x - window.radius() + (e - row * tile_width);
      if (e < elements && window.contains(y, x)) value[b] = input[channel * window.pixels() + y * window.width + x];
    }
#pragma unroll
    for (int b = 0; b < kLoadBatch; ++b)
      if (first + b * kThreads < elements) tile[first + b * kThreads] = A(widen(value[b]));
  }
}

// Rows [0, count) of the packed weight, `pitch` apart, each the block's kOutputs, into shared memory.
template <int kOutputs, class A>
__device__ __forceinline__ void load_weight(const A* source, int count, int64_t pitch, A* weight) {
  const int elements = count * kOutputs;
  for (int first = threadIdx.x; first < elements; first += kThreads * kLoadBatch) {
    A value[kLoadBatch] = {};
#pragma unroll
    for (int b = 0; b < kLoadBatch; ++b)
      if (const int e = first + b * kThreads; e < elements) value[b] = source[e / kOutputs * pitch + e % kOutputs];
#pragma unroll
    for (int b = 0; b < kLoadBatch; ++b)
      if (const int e = first + b * kThreads; e < elements) weight[e] = value[b];
  }
}

// Adds `channels` x taps [first_tap, end_tap) of the convolution to sum. weight: (channels, taps, kOutputs) in shared
// memory. kTiled: input is the shared tile, otherwise the image in global memory.
template <bool kTiled, int kRows, class A, class T>
__device__ __forceinline__ void multiply(A (&sum)[kPixels][kRows], const T* input, int channels, int first_tap,
                                         int end_tap, const A* weight, const Window& window, int tile_height,
                                         int tile_width) {
  constexpr int kOutputs = ConvolutionStorage<A, kRows>::kOutputs;
  const int kernel = static_cast<int>(window.kernel);
  const A* w = weight + warp() * kRows;
  for (int channel = 0; channel < channels; ++channel) {
    int tap_y = first_tap / kernel, tap_x = first_tap % kernel;
    for (int tap = first_tap; tap < end_tap; ++tap) {
      A value[kPixels];
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        if constexpr (kTiled) {
          const int dilation = static_cast<int>(window.dilation);
          value[p] = input[(channel * tile_height + p + tap_y * dilation) * tile_width + lane() + tap_x * dilation];
        } else {
          const int64_t y = window.y + p + tap_y * window.dilation - window.radius();
          const int64_t x = window.x + lane() + tap_x * window.dilation - window.radius();
          value[p] = window.contains(y, x) ? A(widen(input[channel * window.pixels() + y * window.width + x])) : A(0);
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const A weight_r = w[r];
#pragma unroll
        for (int p = 0; p < kPixels; ++p) sum[p][r] += weight_r * value[p];
      }
      w += kOutputs;
      if (++tap_x == kernel) tap_x = 0, ++tap_y;
    }
  }
}

// sum += the convolution of one image (channels, H, W) at this thread's pixels and output rows. weight: packed, at the
// block's first column. All threads of the block call this together; it ends without a barrier.
template <int kRows, class A, class T>
__device__ void convolve(A (&sum)[kPixels][kRows], ConvolutionStorage<A, kRows>& storage, const T* image,
                         int64_t channels, const A* weight, int64_t pitch, const Window& window) {
  using Storage = ConvolutionStorage<A, kRows>;
  const int taps = static_cast<int>(window.kernel * window.kernel);
  const int64_t tile_height = kTileHeight + 2 * window.radius(), tile_width = kTileWidth + 2 * window.radius();
  // The radius is compared first: the product of the sides of a huge tile could overflow.
  const bool tiled = window.radius() < Storage::kTileElements && tile_height * tile_width <= Storage::kTileElements;
  const int tap_chunk = taps < Storage::kDepth ? taps : Storage::kDepth;
  int chunk = Storage::kDepth / tap_chunk;
  if (tiled && chunk * tile_height * tile_width > Storage::kTileElements)
    chunk = static_cast<int>(Storage::kTileElements / (tile_height * tile_width));

  for (int64_t first = 0; first < channels; first += chunk) {
    const int count = static_cast<int>(channels - first < chunk ? channels - first : chunk);
    const T* input = image + first * window.pixels();
    for (int tap = 0; tap < taps; tap += tap_chunk) {
      const int end = tap + tap_chunk < taps ? tap + tap_chunk : taps;
      __syncthreads();  // the previous chunk has been used
      if (tiled && tap == 0)
        load_tile(input, count, window, static_cast<int>(tile_height), static_cast<int>(tile_width), storage.tile);
      load_weight<Storage::kOutputs>(weight + (first * taps + tap) * pitch, count * (end - tap), pitch, storage.weight);
      __syncthreads();
      A part[kPixels][kRows] = {};
      if (tiled)
        multiply<true>(part, storage.tile, count, tap, end, storage.weight, window, static_cast<int>(tile_height),
                       static_cast<int>(tile_width));
      else
        multiply<false>(part, input, count, tap, end, storage.weight, window, 0, 0);
      add(sum, part);
    }
  }
}

// Calls use(output, y, x, &sum) with the first of each thread's kPer neighbouring sums, for those of the outputs, in
// units of kPer, and pixels that exist. first: of the block's outputs.
template <int kPer, int kRows, class A, class Use>
__device__ __forceinline__ void for_each_output(const Window& window, const A (&sum)[kPixels][kRows], int64_t first,
                                                int64_t outputs, const Use& use) {
#pragma unroll
  for (int q = 0; q < kRows / kPer; ++q) {
    const int64_t output = first + warp() * (kRows / kPer) + q;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const int64_t y = window.y + p, x = window.x + lane();
      if (output < outputs && window.contains(y, x)) use(output, y, x, &sum[p][kPer * q]);
    }
  }
}

}  // namespace pdb::cuda
