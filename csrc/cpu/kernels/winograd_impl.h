// The Winograd kernels: transforms of tiles before and after 16 small matrix products (convolution_impl.h's multiply).
#pragma once

#include "cpu/kernels/convolution_impl.h"

namespace pdb::cpu::PDB_ISA {

// Line `line` of B^T d B for one vector of channels of one tile, d at `tile`, to out[4][position_stride].
template <int line, class T>
PDB_INLINE void transform_input_line(const T* tile, int64_t step_y, int64_t step_x, int lanes, T* out,
                                     int64_t position_stride) {
  using V = Vec<T>;
  constexpr int kPlus[4] = {0, 1, 2, 1}, kOther[4] = {2, 2, 1, 3};
  V d[4];
#pragma GCC unroll 4
  for (int x = 0; x < 4; ++x) {
    const V a = V::load(tile + kPlus[line] * step_y + x * step_x, lanes);
    const V b = V::load(tile + kOther[line] * step_y + x * step_x, lanes);
    d[x] = line == 1 ? a + b : a - b;
  }
  (d[0] - d[2]).store(out, lanes);
  (d[1] + d[2]).store(out + position_stride, lanes);
  (d[2] - d[1]).store(out + 2 * position_stride, lanes);
  (d[1] - d[3]).store(out + 3 * position_stride, lanes);
}

// B^T d B of one tile of an image to out[16][position_stride].
template <class T>
PDB_INLINE void transform_input(const WinogradConvolution<T>& c, const Source<T>& source, int64_t corner, T* out,
                                int64_t position_stride) {
  const T* tile = source.frame + corner * source.stride;
  const int64_t step_y = c.step_y * source.stride, step_x = c.step_x * source.stride;
  for_each_vector<T>(source.channels, [&](int64_t channel, int lanes) __attribute__((always_inline)) {
    transform_input_line<0>(tile + channel, step_y, step_x, lanes, out + channel, position_stride);
    transform_input_line<1>(tile + channel, step_y, step_x, lanes, out + 4 * position_stride + channel,
                            position_stride);
    transform_input_line<2>(tile + channel, step_y, step_x, lanes, out + 8 * position_stride + channel,
                            position_stride);
    transform_input_line<3>(tile + channel, step_y, step_x, lanes, out + 12 * position_stride + channel,
                            position_stride);
  });
}

// The products of M vectors of one row block at one Winograd position: products[tile][row_block], for all tiles.
// Weights are read once per strip, and are too many for the nearer caches: the second group of tiles prefetches those
// of the next position, `ahead` values behind these.
template <class T, int M>
void multiply_position(const T* weight, int64_t part_stride, const T* values, int64_t parts, int64_t channels,
                       int64_t tiles, int64_t ahead, T* products) {
  using V = Vec<T>;
  const auto product = [&](auto size, auto prefetch, int64_t tile) __attribute__((always_inline)) {
    constexpr int N = decltype(size)::value;
    V sums[N][M];
    set_to_zero<T>(sums);
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = values + (tile + j) * parts * channels;
    for (int64_t part = 0; part < parts; ++part) {
      multiply_channels<T, N, M, decltype(prefetch)::value != 0>(sums, left, weight + part * part_stride, channels,
                                                                 ahead);
      for (int j = 0; j < N; ++j) left[j] += channels;
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      for (int i = 0; i < M; ++i) sums[j][i].store(products + (tile + j) * kRowBlock<T> + i * V::size);
  };
  int64_t tile = 0;
  if (tile + kTile <= tiles) product(Constant<kTile>(), Constant<0>(), tile), tile += kTile;
  if (tile + kTile <= tiles) product(Constant<kTile>(), Constant<1>(), tile), tile += kTile;
  for (; tile + kTile <= tiles; tile += kTile) product(Constant<kTile>(), Constant<0>(), tile);
  for (; tile < tiles; ++tile) product(Constant<1>(), Constant<0>(), tile);
}

// A^T m A + init for one vector of rows of one tile: products [16][position_stride] to the tile's four pixels.
template <class T>
PDB_INLINE void transform_output(const T* products, int64_t position_stride, Vec<T> init, T* out, int64_t out_stride) {
  using V = Vec<T>;
  V sums[2][4];
  for (int j = 0; j < 4; ++j) {
    V m[4];
    for (int i = 0; i < 4; ++i) m[i] = V::load(products + (4 * i + j) * position_stride);
    sums[0][j] = m[0] + m[1] + m[2];
    sums[1][j] = m[1] - m[2] - m[3];
  }
  for (int y = 0; y < 2; ++y) {
    const V(&s)[4] = sums[y];
    (s[0] + s[1] + s[2] + init).store(out + 2 * y * out_stride);
    (s[1] - s[2] - s[3] + init).store(out + (2 * y + 1) * out_stride);
  }
}

template <class T>
void winograd(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners, int64_t tiles,
              const T* init, T* scratch, T* out) {
  using V = Vec<T>;
  const int64_t width = c.parts * source.channels, part_stride = c.channels * kRowBlock<T>;
  const int64_t value_position = tiles * width + kGap, product_position = tiles * kRowBlock<T> + kGap;
  T* values = scratch;                          // [16][tiles][parts][channels]
  T* products = scratch + 16 * value_position;  // [16][tiles][row_block]
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t part = 0; part < c.parts; ++part)
      transform_input(c, source, corners[tile] + c.shifts[part], values + tile * width + part * source.channels,
                      value_position);
  for (int64_t row = 0; row < c.rows; row += kRowBlock<T>) {
    const T* block = c.weight + row * 16 * c.parts * c.channels;
    const int vectors = vectors_of_block<T>(c.rows - row);
    const auto multiply = vectors == 2 ? multiply_position<T, 2> : multiply_position<T, 1>;
    for (int position = 0; position < 16; ++position)
      multiply(block + position * c.parts * part_stride, part_stride, values + position * value_position, c.parts,
               source.channels, tiles, c.parts * part_stride, products + position * product_position);
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t lane = 0; lane < vectors * V::size; lane += V::size)
        transform_output(products + tile * kRowBlock<T> + lane, product_position, V::load(init + row + lane),
                         out + 4 * tile * c.rows + row + lane, c.rows);
  }
}

// Line `line` of A y A^T for one vector of rows, y the gradients at the four pixels of `tile`, to
// out[4][position_stride].
template <int line, class T>
PDB_INLINE void transform_gradient_line(const T* tile, int64_t step_y, int64_t step_x, int lanes, T* out,
                                        int64_t position_stride) {
  using V = Vec<T>;
  V y[2];
#pragma GCC unroll 2
  for (int x = 0; x < 2; ++x) {
    const T* at = tile + x * step_x;
    const V b = line == 0 ? V(T(0)) : V::load(at + step_y, lanes);
    const V a = line == 3 ? V(T(0)) : V::load(at, lanes);
    y[x] = line == 0 ? a : line == 1 ? a + b : a - b;
  }
  y[0].store(out);
  (y[0] + y[1]).store(out + position_stride);
  (y[0] - y[1]).store(out + 2 * position_stride);
  (V(T(0)) - y[1]).store(out + 3 * position_stride);
}

// Both transforms of `count` tiles: values [4][tiles][channels], gradients [4][tiles][rows], rows padded with zeros.
template <int line, class T>
void transform_for_gradient(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners,
                            const Source<T>& dgates, const int64_t* firsts, int64_t count, int64_t first_row,
                            int64_t rows, T* values, int64_t value_position, T* gradients, int64_t gradient_position) {
  const int64_t present = dgates.channels - first_row < rows ? dgates.channels - first_row : rows;
  for (int64_t tile = 0; tile < count; ++tile) {
    const T* from = source.frame + corners[tile] * source.stride;
    T* to = values + tile * source.channels;
    for_each_vector<T>(source.channels, [&](int64_t at, int lanes) __attribute__((always_inline)) {
      transform_input_line<line>(from + at, c.step_y * source.stride, c.step_x * source.stride, lanes, to + at,
                                 value_position);
    });
    from = dgates.frame + firsts[tile] * dgates.stride + first_row;
    to = gradients + tile * rows;
    for_each_vector<T>(present, [&](int64_t at, int lanes) __attribute__((always_inline)) {
      transform_gradient_line<line>(from + at, c.step_y * dgates.stride, c.step_x * dgates.stride, lanes, to + at,
                                    gradient_position);
    });
    for (int64_t at = (present + Vec<T>::size - 1) / Vec<T>::size * Vec<T>::size; at < rows; at += Vec<T>::size)
      for (int j = 0; j < 4; ++j) Vec<T>(T(0)).store(to + j * gradient_position + at);
  }
}

// dweight[channel][row_block] += the products of one Winograd position, summed over the tiles, for M vectors of rows.
template <class T, int M>
void add_products(const T* values, int64_t channels, const T* gradients, int64_t gradient_stride, int64_t tiles,
                  T* dweight) {
  using V = Vec<T>;
  const auto add = [&](auto size, int64_t channel) __attribute__((always_inline)) {
    constexpr int N = decltype(size)::value;
    V sums[N][M];
    set_to_zero<T>(sums);
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) left[j] = values + channel + j;
    multiply<T, N, M>(sums, left, channels, gradients, gradient_stride, tiles);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      T* total = dweight + (channel + j) * kRowBlock<T>;
      for (int i = 0; i < M; ++i) (V::load(total + i * V::size) + sums[j][i]).store(total + i * V::size);
    }
  };
  int64_t channel = 0;
  for (; channel + kTile <= channels; channel += kTile) add(Constant<kTile>(), channel);
  for (; channel + 2 <= channels; channel += 2) add(Constant<2>(), channel);
  for (; channel < channels; ++channel) add(Constant<1>(), channel);
}

template <class T>
void winograd_weight_gradient(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners,
                              const Source<T>& dgates, const int64_t* firsts, int64_t tiles, int line,
                              int64_t first_block, int64_t blocks, T* scratch, T* dweight) {
  const int64_t rows = blocks * kRowBlock<T>;
  constexpr decltype(&transform_for_gradient<0, T>) kTransforms[4] = {
      transform_for_gradient<0, T>, transform_for_gradient<1, T>, transform_for_gradient<2, T>,
      transform_for_gradient<3, T>};
  const auto transform = kTransforms[line];
  for (int64_t start = 0; start < tiles; start += kGradientTiles) {
    const int64_t count = tiles - start < kGradientTiles ? tiles - start : kGradientTiles;
    const int64_t value_position = count * source.channels + kGap, gradient_position = count * rows + kGap;
    T* values = scratch;                          // [4][tiles][channels]
    T* gradients = scratch + 4 * value_position;  // [4][tiles][rows]
    transform(c, source, corners + start, dgates, firsts + start, count, first_block * kRowBlock<T>, rows, values,
              value_position, gradients, gradient_position);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t left = dgates.channels - (first_block + block) * kRowBlock<T>;
      const auto add = vectors_of_block<T>(left) == 2 ? add_products<T, 2> : add_products<T, 1>;
      for (int j = 0; j < 4; ++j)
        add(values + j * value_position, source.channels, gradients + j * gradient_position + block * kRowBlock<T>,
            rows, count, dweight + ((first_block + block) * 16 + 4 * line + j) * c.parts * c.channels * kRowBlock<T>);
    }
  }
}

}  // namespace pdb::cpu::PDB_ISA
