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
// Products that a pass over a strip sums before they join the total, mostly whole taps at a time: rounding errors grow
// with the length of such a sum, and the weights of a pass must fit in the first-level cache beside the pixels.
constexpr int64_t kPassProducts = 96;
constexpr int64_t kPassChannels = 256;  // a tap of more channels takes several passes

// An integer as a type, to call a generic lambda with a compile-time size.
template <int N>
struct Constant {
  static constexpr int value = N;
};

template <int N = kTile, class Body>
PDB_INLINE void with_tile_size(int64_t size, Body body) {
  if (size == N)
    body(Constant<N>());
  else if constexpr (N > 1)
    with_tile_size<N - 1>(size, body);
}
// Calls body(size as a Constant, first) for tiles of `count` things that are as equal as can be: a last one of one or
// two would take nearly as long as a whole one.
template <class Body>
PDB_INLINE void for_each_tile(int64_t count, Body body) {
  const int64_t tiles = (count + kTile - 1) / kTile;
  for (int64_t tile = 0, first = 0; tile < tiles; ++tile) {
    const int64_t size = count / tiles + (tile < count % tiles);
    with_tile_size(size, [&](auto constant) __attribute__((always_inline)) { body(constant, first); });
    first += size;
  }
}

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

// Calls body(first channel, count) for passes over the channels, from the last ones to the first (multiply_channels).
template <class Body>
PDB_INLINE void for_each_pass(int64_t channels, Body body) {
  for (int64_t first = (channels - 1) / kPassChannels * kPassChannels; first >= 0; first -= kPassChannels)
    body(first, channels - first < kPassChannels ? channels - first : kPassChannels);
}

// What a pass over a strip sums up: `taps` taps from `first_tap` on, `channels` channels from `first_channel` on.
struct Pass {
  int64_t first_tap, taps, first_channel, channels;
};

// One tile of a convolution: N pixels, M vectors of a block of rows. The sum starts from zero and is added to what is
// there at the end.
template <class T, int N, int M>
void convolve_tile(const Convolution<T>& c, const Source<T>& source, const Pass& pass, const T* weight,
                   const int64_t* centers, const T* init, T* out) {
  using V = Vec<T>;
  V sums[N][M];
  set_to_zero<T>(sums);
  for (int64_t tap = pass.first_tap; tap < pass.first_tap + pass.taps; ++tap) {
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      left[j] = source.frame + (centers[j] + c.offsets[tap]) * source.stride + pass.first_channel;
    multiply_channels<T, N, M>(sums, left, weight + (tap * c.channels + pass.first_channel) * kRowBlock<T>,
                               pass.channels);
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
void convolve_block(const Convolution<T>& c, const Source<T>& source, const Pass& pass, const T* weight,
                    const int64_t* centers, int64_t pixels, const T* init, T* out) {
  for_each_tile(pixels, [&](auto size, int64_t pixel) __attribute__((always_inline)) {
    convolve_tile<T, size.value, M>(c, source, pass, weight, centers + pixel, init, out + pixel * c.rows);
  });
}

template <class T>
void convolve(const Convolution<T>& c, const Source<T>& source, const int64_t* centers, int64_t pixels, const T* init,
              T* out) {
  const auto run_pass = [&](const Pass& pass) {
    for (int64_t row = 0; row < c.rows; row += kRowBlock<T>) {
      const T* block = c.weight + row * c.taps * c.channels;
      const bool is_first = pass.first_tap == 0 && pass.first_channel + pass.channels == source.channels;
      const T* start = is_first ? init + row : nullptr;
      const auto run = vectors_of_block<T>(c.rows - row) == 2 ? convolve_block<T, 2> : convolve_block<T, 1>;
      run(c, source, pass, block, centers, pixels, start, out + row);
    }
  };
  const int64_t taps_a_pass = source.channels < kPassProducts ? kPassProducts / source.channels : 1;
  for (int64_t tap = 0; tap < c.taps; tap += taps_a_pass)
    for_each_pass(source.channels, [&](int64_t channel, int64_t channels) {
      run_pass({tap, c.taps - tap < taps_a_pass ? c.taps - tap : taps_a_pass, channel, channels});
    });
}

// N pixels and M vectors of convolve_tap.
template <class T, int N, int M, bool prefetch>
void convolve_tap_tile(const T* weight, const Source<T>& source, const int64_t* positions, const int64_t* pixels,
                       T* sums, int64_t stride, int64_t ahead) {
  using V = Vec<T>;
  V added[N][M];
  const T* left[N];
  set_to_zero<T>(added);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) left[j] = source.frame + positions[j] * source.stride;
  multiply_channels<T, N, M, prefetch>(added, left, weight, source.channels, ahead);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) {
    T* to = sums + pixels[j] * stride;
    for (int i = 0; i < M; ++i) (V::load(to + i * V::size) + added[j][i]).store(to + i * V::size);
  }
}

// The second tile prefetches the weights of the next pass, `ahead` values behind these.
template <class T, int M>
void convolve_tap_block(const T* weight, const Source<T>& source, const int64_t* positions, const int64_t* pixels,
                        int64_t count, T* sums, int64_t stride, int64_t ahead) {
  for_each_tile(count, [&](auto size, int64_t first) __attribute__((always_inline)) {
    const auto run = first > 0 && first <= kTile ? convolve_tap_tile<T, size.value, M, true>
                                                 : convolve_tap_tile<T, size.value, M, false>;
    run(weight, source, positions + first, pixels + first, sums, stride, ahead);
  });
}

template <class T>
void convolve_tap(const T* weight, const Source<T>& source, const int64_t* positions, const int64_t* pixels,
                  int64_t count, int64_t rows, T* sums, int64_t stride) {
  const auto run = vectors_of_block<T>(rows) == 2 ? convolve_tap_block<T, 2> : convolve_tap_block<T, 1>;
  for_each_pass(source.channels, [&](int64_t channel, int64_t channels) {
    const int64_t next =
        channel > 0 ? -kPassChannels : (source.channels - 1) / kPassChannels * kPassChannels + source.channels;
    run(weight + channel * kRowBlock<T>, {source.frame + channel, source.stride, channels}, positions, pixels, count,
        sums, stride, next * kRowBlock<T>);
  });
}

// dweight[j][2 vectors] += sum over the pixels of some image rows, for N neighbouring channels. The sum starts from
// zero: rounding errors grow with the pixels of a call, not of the whole image.
template <class T, int N>
void weight_gradient_tile(const Source<T>& source, int64_t channel, const T* dgates, int64_t gates, int64_t width,
                          int64_t rows, int64_t pitch, T* dweight, int64_t stride) {
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
    T* total = dweight + (channel + j) * stride;
    (V::load(total) + sums[j][0]).store(total);
    (V::load(total + V::size) + sums[j][1]).store(total + V::size);
  }
}

template <class T>
void weight_gradient(const Source<T>& source, const T* dgates, int64_t gates, int64_t width, int64_t rows,
                     int64_t pitch, T* dweight, int64_t stride) {
  for_each_tile(source.channels, [&](auto size, int64_t channel) __attribute__((always_inline)) {
    weight_gradient_tile<T, size.value>(source, channel, dgates, gates, width, rows, pitch, dweight, stride);
  });
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
