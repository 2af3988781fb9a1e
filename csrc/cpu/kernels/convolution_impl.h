// Matrix kernels in registers: the dilated convolution of a strip, and its weight gradient. Both keep a tile of kTile x
// (2 vectors) sums in registers and multiply one broadcast value by two vectors at a time; by one where a block of rows
// is at most half full.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/vec.h"

namespace pdb::cpu::PDB_ISA {

// 16 vector registers hold 6 x 2 sums, two operands and a broadcast; 32 hold more.
constexpr int kTile = PDB_VECTOR_BYTES == 64 ? 8 : 6;
template <class T>
constexpr int kRowBlock = 2 * Vec<T>::size;
// Products that a pass over a strip sums before they join the total, whole taps at a time: rounding errors grow with
// the length of such a sum, and the weights of a pass must fit in the first-level cache beside the pixels.
constexpr int64_t kPassProducts = 96;

// An integer as a type, to call a generic lambda with a compile-time size.
template <int N>
struct Constant {
  static constexpr int value = N;
};

// sums[j][M] += sum over k of broadcast(left(j, k)) * row_k, where row_k are the M <= 2 vectors at right + k *
// right_stride and left(j, k) = left[j][k * left_stride]. prefetch: the values `ahead` behind each row_k are needed
// soon.
template <class T, int N, int M, bool prefetch = false>
PDB_INLINE void multiply(Vec<T> (&sums)[N][M], const T* const* left, int64_t left_stride, const T* right,
                         int64_t right_stride, int64_t count, int64_t ahead = 0) {
  using V = Vec<T>;
  for (int64_t k = 0; k < count; ++k) {
    if (prefetch) {
      constexpr int64_t kLine = 64 / sizeof(T);  // of the cache
      for (int64_t at = 0; at < kRowBlock<T>; at += kLine)
        __builtin_prefetch(right + k * right_stride + ahead + at, 0, 2);
    }
    const V right0 = V::load(right + k * right_stride);
    const V right1 = M == 2 ? V::load(right + k * right_stride + V::size) : right0;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const V value(left[j][k * left_stride]);
      sums[j][0] = sums[j][0] + value * right0;
      if (M == 2) sums[j][M - 1] = sums[j][M - 1] + value * right1;
    }
  }
}

// sums[j][M] += sum over the channels of left[j][channel] * right[channel][row_block], from the last channel to the
// first: h lies behind x in a frame and is mostly the smaller of the two, and a sum loses less when its small terms
// come first.
template <class T, int N, int M, bool prefetch = false>
PDB_INLINE void multiply_channels(Vec<T> (&sums)[N][M], const T* const* left, const T* right, int64_t channels,
                                  int64_t ahead = 0) {
  const T* last[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) last[j] = left[j] + channels - 1;
  multiply<T, N, M, prefetch>(sums, last, -1, right + (channels - 1) * kRowBlock<T>, -kRowBlock<T>, channels, ahead);
}

template <class T, int N, int M>
PDB_INLINE void set_to_zero(Vec<T> (&sums)[N][M]) {
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j)
    for (int i = 0; i < M; ++i) sums[j][i] = Vec<T>(T(0));
}

// How many vectors of a row block hold rows, when `rows` are left.
template <class T>
PDB_INLINE int vectors_of_block(int64_t rows) {
  return rows > Vec<T>::size ? 2 : 1;
}

// One tile of a convolution: N pixels, M vectors of a block of rows, `taps` taps from `first_tap` on. The sum starts
// from zero and is added to what is there at the end.
template <class T, int N, int M>
void convolve_tile(const Convolution<T>& c, const Source<T>& source, int64_t first_tap, int64_t taps, const T* weight,
                   const int64_t* centers, const T* init, T* out) {
  using V = Vec<T>;
  V sums[N][M];
  set_to_zero<T>(sums);
  for (int64_t tap = first_tap; tap < first_tap + taps; ++tap) {
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = source.frame + (centers[j] + c.offsets[tap]) * source.stride;
    multiply_channels<T, N, M>(sums, left, weight + tap * c.channels * kRowBlock<T>, source.channels);
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    T* to = out + j * c.rows;
    const T* from = init ? init : to;
    for (int i = 0; i < M; ++i) (V::load(from + i * V::size) + sums[j][i]).store(to + i * V::size);
  }
}

// All pixels of a strip, for one block of rows.
template <class T, int M>
void convolve_block(const Convolution<T>& c, const Source<T>& source, int64_t first_tap, int64_t taps, const T* weight,
                    const int64_t* centers, int64_t pixels, const T* init, T* out) {
  int64_t pixel = 0;
  for (; pixel + kTile <= pixels; pixel += kTile)
    convolve_tile<T, kTile, M>(c, source, first_tap, taps, weight, centers + pixel, init, out + pixel * c.rows);
  for (; pixel + 2 <= pixels; pixel += 2)
    convolve_tile<T, 2, M>(c, source, first_tap, taps, weight, centers + pixel, init, out + pixel * c.rows);
  for (; pixel < pixels; ++pixel)
    convolve_tile<T, 1, M>(c, source, first_tap, taps, weight, centers + pixel, init, out + pixel * c.rows);
}

template <class T>
void convolve(const Convolution<T>& c, const Source<T>& source, const int64_t* centers, int64_t pixels, const T* init,
              T* out) {
  const int64_t taps_a_pass = source.channels < kPassProducts ? kPassProducts / source.channels : 1;
  for (int64_t tap = 0; tap < c.taps; tap += taps_a_pass) {
    const int64_t taps = c.taps - tap < taps_a_pass ? c.taps - tap : taps_a_pass;
    for (int64_t row = 0; row < c.rows; row += kRowBlock<T>) {
      const T* block = c.weight + row * c.taps * c.channels;
      const T* start = tap == 0 ? init + row : nullptr;
      const auto run = vectors_of_block<T>(c.rows - row) == 2 ? convolve_block<T, 2> : convolve_block<T, 1>;
      run(c, source, tap, taps, block, centers, pixels, start, out + row);
    }
  }
}

// dweight[j][2 vectors] += sum over the pixels of some image rows, for N neighbouring channels. The sum starts from
// zero: rounding errors grow with the pixels of a call, not of the whole image.
template <class T, int N>
void weight_gradient_tile(const Source<T>& source, int64_t channel, const T* dgates, int64_t gates, int64_t width,
                          int64_t rows, int64_t pitch, T* dweight) {
  using V = Vec<T>;
  V sums[N][2];
  set_to_zero<T>(sums);
  for (int64_t y = 0; y < rows; ++y) {
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = source.frame + y * pitch * source.stride + channel + j;
    multiply<T, N, 2>(sums, left, source.stride, dgates + y * pitch * gates, gates, width);
  }
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    T* total = dweight + (channel + j) * kRowBlock<T>;
    (V::load(total) + sums[j][0]).store(total);
    (V::load(total + V::size) + sums[j][1]).store(total + V::size);
  }
}

template <class T>
void weight_gradient(const Source<T>& source, const T* dgates, int64_t gates, int64_t width, int64_t rows,
                     int64_t pitch, T* dweight) {
  int64_t channel = 0;
  for (; channel + kTile <= source.channels; channel += kTile)
    weight_gradient_tile<T, kTile>(source, channel, dgates, gates, width, rows, pitch, dweight);
  for (; channel + 2 <= source.channels; channel += 2)
    weight_gradient_tile<T, 2>(source, channel, dgates, gates, width, rows, pitch, dweight);
  for (; channel < source.channels; ++channel)
    weight_gradient_tile<T, 1>(source, channel, dgates, gates, width, rows, pitch, dweight);
}

template <class T>
void bias_gradient(const T* dgates, int64_t gates, int64_t pixels, T* dbias) {
  using V = Vec<T>;
  V sums[2] = {V(T(0)), V(T(0))};
  for (int64_t p = 0; p < pixels; ++p) {
    sums[0] = sums[0] + V::load(dgates + p * gates);
    sums[1] = sums[1] + V::load(dgates + p * gates + V::size);
  }
  (V::load(dbias) + sums[0]).store(dbias);
  (V::load(dbias + V::size) + sums[1]).store(dbias + V::size);
}

}  // namespace pdb::cpu::PDB_ISA
