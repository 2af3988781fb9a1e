// Matrix kernels in registers: the dilated convolution of a strip, and its weight gradient. Both keep a tile of
// kTilePixels x (2 vectors) sums in registers and feed it one broadcast value against two vectors at a time.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace pdb::cpu::PDB_ISA {

// 16 vector registers hold 6 x 2 sums, two operands and a broadcast; 32 hold more.
constexpr int kTile = PDB_VECTOR_BYTES == 64 ? 8 : 6;
template <class T>
constexpr int kRowBlock = 2 * Vec<T>::size;
// Weights of one pass over a strip: what fits in half of a 32 KiB first-level cache.
constexpr int64_t kPassBytes = 18 * 1024;

// sums[j][2] += sum over k of broadcast(left(j, k)) * row_k, where row_k are the two vectors at right + k * right_stride
// and left(j, k) = left[j][k * left_stride].
template <class T, int N>
PDB_INLINE void multiply(Vec<T> (&sums)[N][2], const T* const* left, int64_t left_stride, const T* right,
                         int64_t right_stride, int64_t count) {
  using V = Vec<T>;
  for (int64_t k = 0; k < count; ++k) {
    const V right0 = V::load(right + k * right_stride);
    const V right1 = V::load(right + k * right_stride + V::size);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const V value(left[j][k * left_stride]);
      sums[j][0] = sums[j][0] + value * right0;
      sums[j][1] = sums[j][1] + value * right1;
    }
  }
}

// One tile of a convolution: N pixels, one block of rows, `taps` taps from `offsets` on. The sum starts from zero and
// joins what is there at the end: rounding errors grow with the length of a pass, not of the whole sum.
template <class T, int N>
void convolve_tile(const T* weight, const int64_t* offsets, int64_t taps, int64_t channels, const T* const* centers,
                   const T* init, T* out, int64_t out_stride) {
  using V = Vec<T>;
  V sums[N][2];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) sums[j][0] = sums[j][1] = V(T(0));
  for (int64_t tap = 0; tap < taps; ++tap) {
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = centers[j] + offsets[tap] * channels;
    multiply<T, N>(sums, left, 1, weight + tap * channels * kRowBlock<T>, kRowBlock<T>, channels);
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    T* to = out + j * out_stride;
    const T* from = init ? init : to;
    (V::load(from) + sums[j][0]).store(to);
    (V::load(from + V::size) + sums[j][1]).store(to + V::size);
  }
}

// Calls function<N>(arguments...) for the run-time n = N in 1 .. kTile.
#define PDB_SWITCH_TILE(n, CALL)  \
  switch (n) {                    \
    case 1: CALL(1); break;       \
    case 2: CALL(2); break;       \
    case 3: CALL(3); break;       \
    case 4: CALL(4); break;       \
    case 5: CALL(5); break;       \
    case 6: CALL(6); break;       \
    case 7: CALL(kTile < 7 ? 1 : 7); break; \
    default: CALL(kTile); break;  \
  }

template <class T>
void convolve(const Convolution<T>& convolution, const T* const* centers, int64_t pixels, const T* init, T* out) {
  const auto& [weight, offsets, taps, channels, rows] = convolution;
  const int64_t tap_size = channels * kRowBlock<T>;
  const int64_t fitting = kPassBytes / static_cast<int64_t>(tap_size * sizeof(T));
  const int64_t taps_a_pass = fitting < 1 ? 1 : fitting;
  for (int64_t tap = 0; tap < taps; tap += taps_a_pass) {
    const int64_t pass_taps = taps - tap < taps_a_pass ? taps - tap : taps_a_pass;
    for (int64_t row = 0; row < rows; row += kRowBlock<T>) {
      const T* block = weight + (row / kRowBlock<T> * taps + tap) * tap_size;
      const T* start = init && tap == 0 ? init + row : nullptr;
      for (int64_t pixel = 0; pixel < pixels; pixel += kTile) {
        T* tile_out = out + pixel * rows + row;
#define PDB_CALL(N) convolve_tile<T, N>(block, offsets + tap, pass_taps, channels, centers + pixel, start, tile_out, rows)
        PDB_SWITCH_TILE(pixels - pixel < kTile ? pixels - pixel : kTile, PDB_CALL)
#undef PDB_CALL
      }
    }
  }
}

// Rows of pixels whose gradients are summed from zero before they join the total: keeps a chunk in the second-level
// cache, and rounding errors from growing with the size of the picture.
constexpr int64_t kChunkPixels = 256;

// dweight[j][2 vectors] += sum over the pixels of some picture rows, for N neighbouring channels.
template <class T, int N>
void weight_gradient_tile(const Grid& grid, int64_t first_row, int64_t last_row, const T* source, int64_t channels,
                          const T* dgates, int64_t rows, T* dweight) {
  using V = Vec<T>;
  V sums[N][2];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) sums[j][0] = sums[j][1] = V(T(0));
  for (int64_t y = first_row; y < last_row; ++y) {
    const int64_t start = grid.frame_pixel(y * grid.width);
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = source + start * channels + j;
    multiply<T, N>(sums, left, channels, dgates + start * rows, rows, grid.width);
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    T* total = dweight + j * kRowBlock<T>;
    (V::load(total) + sums[j][0]).store(total);
    (V::load(total + V::size) + sums[j][1]).store(total + V::size);
  }
}

template <class T>
void weight_gradient(const Grid& grid, int64_t batch, const T* source, int64_t channels, int64_t offset, const T* dgates,
                     int64_t rows, int64_t row, T* dweight) {
  const int64_t fitting = kChunkPixels / grid.width;
  const int64_t chunk = fitting < 1 ? 1 : fitting;
  for (int64_t n = 0; n < batch; ++n) {
    const T* frame = source + (n * grid.frame_pixels() + offset) * channels;
    const T* dgates_frame = dgates + n * grid.frame_pixels() * rows + row;
    for (int64_t y = 0; y < grid.height; y += chunk) {
      const int64_t end = grid.height - y < chunk ? grid.height : y + chunk;
      for (int64_t channel = 0; channel < channels; channel += kTile) {
#define PDB_CALL(N)                                                                                    \
  weight_gradient_tile<T, N>(grid, y, end, frame + channel, channels, dgates_frame, rows, \
                             dweight + channel * kRowBlock<T>)
        PDB_SWITCH_TILE(channels - channel < kTile ? channels - channel : kTile, PDB_CALL)
#undef PDB_CALL
      }
    }
  }
}

template <class T>
void bias_gradient(const Grid& grid, int64_t batch, const T* dgates, int64_t rows, int64_t row, T* dbias) {
  using V = Vec<T>;
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t y = 0; y < grid.height; ++y) {
      const T* from = dgates + (n * grid.frame_pixels() + grid.frame_pixel(y * grid.width)) * rows + row;
      V sums[2] = {V(T(0)), V(T(0))};
      for (int64_t x = 0; x < grid.width; ++x) {
        sums[0] = sums[0] + V::load(from + x * rows);
        sums[1] = sums[1] + V::load(from + x * rows + V::size);
      }
      (V::load(dbias) + sums[0]).store(dbias);
      (V::load(dbias + V::size) + sums[1]).store(dbias + V::size);
    }
  }
}

}  // namespace pdb::cpu::PDB_ISA
