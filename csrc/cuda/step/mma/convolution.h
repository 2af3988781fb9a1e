// The convolution core of the tensor-core kernels. A block computes a tile of kMmaTile x kMmaTile pixels. Each chunk of
// kChunkWords words of input channels is read once, with its dilated halo, into shared memory, pixel by pixel. The rows
// of the weight come from global memory (mostly the L1 cache) in exactly the order in which the lanes need them. A warp
// computes kM x 16 output rows at kN rows of the tile, 8 pixels each.
#pragma once

#include "cuda/common/mma.h"
#include "cuda/common/window.h"

namespace pdb::cuda {

constexpr int kMmaTile = 8;
static_assert(kMmaTile == kMmaColumns, "a row of the tile is a column block of the product");
constexpr int kChunkWords = 2 * kMmaWords;
// Words from one pixel to the next: the lanes of a warp read 4 words of 8 consecutive pixels, which then lie in 32
// different banks.
constexpr int kPixelPitch = kChunkWords + 4;

struct alignas(16) MmaStorage {
  static constexpr int kSide = kMmaTile + 2 * kMmaMaxRadius;
  uint32_t tile[kSide * kSide * kPixelPitch];
};
static_assert(sizeof(MmaStorage) <= 48 * 1024, "static shared memory is limited to 48 KB");

struct alignas(16) Fragment {
  uint32_t word[4];
};

// Reads the chunk of channels from `first` on into shared memory. A warp reads 4 words of 8 pixels at a time. All loads
// of a lane are in flight before the first is used.
template <class T>
__device__ __forceinline__ void load_mma_tile(const T* image, int64_t channels, int64_t first, const Window& window,
                                              int side, uint32_t* tile) {
  constexpr int kPer = kPerWord<T>, kWords = kChunkWords / 4;
  const unsigned columns = (side + 7) / 8, warps = blockDim.x / 32;
  const int64_t pixels = window.pixels();
  const int left_over = int(channels - first < kChunkWords * kPer ? channels - first : kChunkWords * kPer);
  for (unsigned unit = warp(); unit < side * columns; unit += warps) {
    const int row = unit / columns, column = (unit - row * columns) * 8 + lane() / 4;
    if (column >= side) continue;
    const int64_t y = window.y - window.radius() + row, x = window.x - window.radius() + column;
    const bool inside = window.contains(y, x);
    const T* source = image + (first + lane() % 4 * kPer) * pixels + y * window.width + x;
    const int count = inside ? left_over - lane() % 4 * kPer : 0;  // of the lane's channels, from its first on
    T value[kWords][kPer] = {};
#pragma unroll
    for (int word = 0; word < kWords; ++word, source += (4 * kPer - kPer) * pixels) {
#pragma unroll
      for (int i = 0; i < kPer; ++i, source += pixels)
        if (4 * word * kPer + i < count) value[word][i] = *source;
    }
    uint32_t* target = tile + (row * side + column) * kPixelPitch + lane() % 4;
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
      uint32_t bits = 0;
#pragma unroll
      for (int i = 0; i < kPer; ++i) bits |= operand_bits(value[word][i], T{}) << (16 * i);
      target[4 * word] = bits;
    }
  }
}

// sum += the convolution of one image (channels, H, W) with this warp's kM row blocks, at the tile's rows
// [tile_row, tile_row + kN). weight: fragments (row block, step, tap, lane), at the warp's first row block. All threads
// of the block call this together; it ends without a barrier.
template <class T, int kM, int kN>
__device__ void mma_convolve(float (&sum)[kM][kN][4], MmaStorage& storage, const T* image, int64_t channels,
                             const Fragment* weight, const Window& window, int tile_row) {
  const int kernel = static_cast<int>(window.kernel), dilation = static_cast<int>(window.dilation);
  const int side = kMmaTile + 2 * static_cast<int>(window.radius());
  const int64_t block_fragments = mma_steps<T>(channels) * kernel * kernel * 32;
  const Fragment* next = weight + lane();
  int64_t left = block_fragments / 32;  // remaining fragments of a row block
  Fragment a[kM];
#pragma unroll
  for (int m = 0; m < kM; ++m) a[m] = next[m * block_fragments];

  for (int64_t first = 0; first < channels; first += kChunkWords * kPerWord<T>) {
    __syncthreads();  // the previous chunk has been used
    load_mma_tile<T>(image, channels, first, window, side, storage.tile);
    __syncthreads();
    const int steps = channels - first > kMmaWords * kPerWord<T> ? kChunkWords / kMmaWords : 1;
    for (int step = 0; step < steps; ++step) {
      for (int tap = 0, tap_y = 0, tap_x = 0; tap < kernel * kernel; ++tap) {
        // The next fragments are loaded while these are used.
        Fragment following[kM];
        if (--left > 0) next += 32;
#pragma unroll
        for (int m = 0; m < kM; ++m) following[m] = next[m * block_fragments];
        const uint32_t* source = storage.tile + step * kMmaWords + lane() % 4 +
                                 ((tile_row + tap_y * dilation) * side + lane() / 4 + tap_x * dilation) * kPixelPitch;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const uint32_t b[2] = {source[n * side * kPixelPitch], source[n * side * kPixelPitch + 4]};
#pragma unroll
          for (int m = 0; m < kM; ++m) mma<T>(sum[m][n], a[m].word, b);
        }
#pragma unroll
        for (int m = 0; m < kM; ++m) a[m] = following[m];
        if (++tap_x == kernel) tap_x = 0, ++tap_y;
      }
    }
  }
}

}  // namespace pdb::cuda
