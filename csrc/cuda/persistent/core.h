// The products of the persistent kernels, on tensor cores and by fused multiply-adds, with the same interface:
//   Element, element(), join()   the elements of a chunk of depth, and how a value becomes one
//   kGroupChannels, kOutputs     channels of a block, and the output rows for them
//   Cells of a thread: kCells (channel, pixel) pairs; Sum holds kValues sums of each, value(sum, cell, i)
//   kPairs: whether cells 2i and 2i + 1 are neighbours in a row, the first in an even column
//   locate()                     the (output row, depth, tap) of element e of a packed weight
//   kSideChunks                  depth of the side input that is in shared memory at a time
//   kRowBlocks                   parts of a group's packed weight, each with the whole depth, one behind the other
// kGates: the rows are the four gates of each channel, otherwise (transposed weight) the channels alone.
//
// Both are cut so that the paper's module (32 channels, 60 x 60, two branches) is resident on 132 multiprocessors with
// 227 KB of shared memory in every precision but double: tests/kernels/test_compiles.py. Backward has the widest
// window, 4C gate gradients deep; for elements of 4 bytes it makes up for this with a narrower window of the side
// input.
#pragma once

#include "cuda/common/add.h"
#include "cuda/common/mma.h"
#include "cuda/persistent/halo.h"

namespace pdb::cuda {

constexpr int side_chunks_at_once(bool gates, int per_chunk) { return !gates && per_chunk == 4 ? 2 : 4; }

struct WeightPlace {
  int output, depth, tap;  // outputs are numbered across groups
};

// A lane has pixel `lane` of the upper and of the lower half of the tile, and for both the kRows rows of its warp.
template <class T, bool kGates>
struct FmaCore {
  using A = accumulation_t<T>;
  using Element = A;
  static constexpr bool kTensorCores = false;
  static constexpr int kPerChunk = 16 / sizeof(A), kWarps = kPersistentThreads / 32, kPixels = 2;
  static constexpr int kChannels = sizeof(A) == 8 ? 2 : 4;  // of a thread: as many as its registers allow
  static constexpr int kSideChunks = side_chunks_at_once(kGates, kPerChunk);
  static constexpr int kGroupChannels = kWarps * kChannels, kValues = kGates ? kGateCount : 1,
                       kRows = kChannels * kValues;
  static constexpr int kOutputs = kWarps * kRows, kCells = kPixels * kChannels, kChunkMultiple = 1, kRowBlocks = 1;
  static constexpr bool kPairs = false;

  struct __attribute__((may_alias, aligned(16))) Values {
    A v[kPerChunk];
  };
  struct alignas(16) Sum {
    A v[kPixels][kRows];
  };
  typedef Element __attribute__((may_alias)) Alias;

  template <class S>
  static __device__ __forceinline__ Element element(S value) {
    return A(widen(value));
  }
  static __device__ __forceinline__ Element rounded(A value) { return kGates ? A(widen(narrowed<T>(value))) : value; }
  static __device__ __forceinline__ Chunk join(const Element (&element)[kPerChunk]) {
    Values values;
#pragma unroll
    for (int i = 0; i < kPerChunk; ++i) values.v[i] = element[i];
    return reinterpret_cast<const Chunk&>(values);
  }
  static __device__ __forceinline__ void write(Chunk* pixel, int depth, Element value) {
    reinterpret_cast<Values*>(pixel)[depth / kPerChunk].v[depth % kPerChunk] = value;
  }

  static __device__ __forceinline__ A& value(Sum& sum, int cell, int i) {
    return sum.v[cell / kChannels][cell % kChannels * kValues + i];
  }
  static __device__ __forceinline__ int channel(int cell) { return warp() * kChannels + cell % kChannels; }
  static __device__ __forceinline__ int y(int cell) { return lane() / kTile + cell / kChannels * (kTile / kPixels); }
  static __device__ __forceinline__ int x(int) { return lane() % kTile; }

  static __device__ WeightPlace locate(unsigned e, unsigned taps, unsigned chunks) {
    const unsigned row = e / kPerChunk % kOutputs, rest = e / kPerChunk / kOutputs;
    const unsigned chunk = rest / taps, group = chunk / chunks;
    return {int(group * kOutputs + row), int((chunk - group * chunks) * kPerChunk + e % kPerChunk),
            int(rest - chunk * taps)};
  }
  static __device__ void gate_row(int row, int& channel, int& gate) {
    channel = row / kGateCount, gate = row % kGateCount;
  }

  // sum += chunks [first, first + count) of the depth, out of `total` in the weight. tile: these chunks, `pitch` apart.
  static __device__ __forceinline__ void multiply(Sum& sum, const Chunk* weight, int first, int count, int,
                                                  const Chunk* tile, int pitch, int side, int kernel, int dilation) {
    for (int chunk = 0; chunk < count; ++chunk) {
      const Chunk* w = weight + (first + chunk) * kernel * kernel * kOutputs + warp() * kRows;
      A part[kPixels][kRows] = {};  // sums of sums: see add.h
      for (int tap = 0, tap_y = 0, tap_x = 0; tap < kernel * kernel; ++tap, w += kOutputs) {
        Values input[kPixels];
#pragma unroll
        for (int p = 0; p < kPixels; ++p)
          input[p] = reinterpret_cast<const Values&>(
              tile[((y(p * kChannels) + tap_y * dilation) * side + x(0) + tap_x * dilation) * pitch + chunk]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Values weights = reinterpret_cast<const Values&>(w[r]);
#pragma unroll
          for (int p = 0; p < kPixels; ++p) {
#pragma unroll
            for (int i = 0; i < kPerChunk; ++i) part[p][r] += weights.v[i] * input[p].v[i];
          }
        }
        if (++tap_x == kernel) tap_x = 0, ++tap_y;
      }
      add(sum.v, part);
    }
  }
};

// Fragments as in mma.h. With gates a warp has 8 channels (row blocks i, f and o, g) and half the tile's rows,
// otherwise 16 channels and a quarter of the rows.
template <class T, bool kGates>
struct MmaCore {
  using A = float;
  using Element = std::conditional_t<sizeof(T) == 2, unsigned short, uint32_t>;
  static constexpr bool kTensorCores = true;
  static constexpr int kPerChunk = 16 / sizeof(T), kM = kGates ? kMmaGateBlocks : 1, kChannelWarps = kGates ? 4 : 2;
  static constexpr int kN = kTile * kChannelWarps * 32 / kPersistentThreads, kValues = kGates ? kGateCount : 1;
  static constexpr int kGroupChannels = 32, kOutputs = kMmaRows * kM * kChannelWarps, kCells = kGates ? 2 * kN : 4 * kN;
  static constexpr int kChunkMultiple = 2;  // of a product's depth
  static constexpr bool kPairs = true;
  static constexpr int kRowBlocks = kOutputs / kMmaRows;
  static constexpr int kSideChunks = side_chunks_at_once(kGates, kPerChunk);
  static_assert(kTile == kMmaColumns, "a row of the tile is a column block of the product");

  struct alignas(16) Sum {
    float v[kM][kN][4];
  };
  typedef Element __attribute__((may_alias)) Alias;

  template <class S>
  static __device__ __forceinline__ Element element(S value) {
    return static_cast<Element>(operand_bits(value, T{}));
  }
  static __device__ __forceinline__ Element rounded(float value) { return element(value); }
  static __device__ __forceinline__ Chunk join(const Element (&element)[kPerChunk]) {
    Chunk chunk;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      chunk.word[word] = element[word * kPerWord<T>];
      if (kPerWord<T> == 2) chunk.word[word] |= uint32_t(element[word * kPerWord<T> + kPerWord<T> - 1]) << 16;
    }
    return chunk;
  }
  static __device__ __forceinline__ void write(Chunk* pixel, int depth, Element value) {
    reinterpret_cast<Alias*>(pixel)[depth] = value;
  }

  static __device__ __forceinline__ float& value(Sum& sum, int cell, int i) {
    if (kGates) return sum.v[kM - 1 ? i / 2 : 0][cell / 2][i % 2 * 2 + cell % 2];
    return sum.v[0][cell / 4][cell % 4];
  }
  static __device__ __forceinline__ int channel(int cell) {
    return warp() % kChannelWarps * (kGates ? 8 : 16) + lane() / 4 + (kGates ? 0 : cell % 4 / 2 * 8);
  }
  static __device__ __forceinline__ int y(int cell) { return warp() / kChannelWarps * kN + cell / (kGates ? 2 : 4); }
  static __device__ __forceinline__ int x(int cell) { return lane() % 4 * 2 + cell % 2; }

  static __device__ WeightPlace locate(unsigned e, unsigned taps, unsigned chunks) {
    const unsigned w = e / kPerWord<T>, word = w % 4, lane = w / 4 % 32, rest = w / 128 / taps, steps = chunks / 2;
    const unsigned row_block = rest / steps, step = rest - row_block * steps;
    return {int(row_block * kMmaRows + lane / 4 + word % 2 * 8),
            int((step * kMmaWords + lane % 4 + word / 2 * 4) * kPerWord<T> + e % kPerWord<T>),
            int(w / 128 - rest * taps)};
  }
  static __device__ void gate_row(int row, int& channel, int& gate) { mma_gate_row(row, channel, gate); }

  static __device__ __forceinline__ void multiply(Sum& sum, const Chunk* weight, int first, int count, int total,
                                                  const Chunk* tile, int pitch, int side, int kernel, int dilation) {
    const int taps = kernel * kernel, row_block = total / 2 * taps * 32;
    const Chunk* a_at = weight + warp() % kChannelWarps * kM * row_block + first / 2 * taps * 32 + lane();
    const uint32_t* words = tile->word + lane() % 4 + ((y(0) * side + lane() / 4) * pitch) * 4;
    for (int step = 0; step < count / 2; ++step) {
      for (int tap = 0, tap_y = 0, tap_x = 0; tap < taps; ++tap, a_at += 32) {
        Chunk a[kM];
#pragma unroll
        for (int m = 0; m < kM; ++m) a[m] = a_at[m * row_block];
        const uint32_t* source = words + ((tap_y * side + tap_x) * dilation * pitch) * 4 + step * kMmaWords;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const uint32_t b[2] = {source[n * side * pitch * 4], source[n * side * pitch * 4 + 4]};
#pragma unroll
          for (int m = 0; m < kM; ++m) mma<T>(sum.v[m][n], a[m].word, b);
        }
        if (++tap_x == kernel) tap_x = 0, ++tap_y;
      }
    }
  }
};

}  // namespace pdb::cuda
