// The Winograd kernels: transforms of tiles on either side of 16 small matrix products (convolution_impl.h's multiply).
#pragma once

#include "convolution_impl.h"

namespace pdb::cpu::PDB_ISA {

template <class T>
PDB_INLINE int lanes_at(int64_t position, int64_t size) {
  return static_cast<int>(size - position < Vec<T>::size ? size - position : Vec<T>::size);
}

// One line of B^T applied to four values.
template <class V>
PDB_INLINE void input_line(const V (&d)[4], V (&out)[4]) {
  out[0] = d[0] - d[2];
  out[1] = d[1] + d[2];
  out[2] = d[2] - d[1];
  out[3] = d[1] - d[3];
}

// One tile of a picture, a vector of channels at a time: B^T d B to out[16][position_stride].
template <class T>
void transform_input(const WinogradConvolution<T>& c, const Source<T>& source, int64_t corner, T* out,
                     int64_t position_stride) {
  using V = Vec<T>;
  for (int64_t channel = 0; channel < source.channels; channel += V::size) {
    const int lanes = lanes_at<T>(channel, source.channels);
    V rows[4][4];  // [column][row], after the first pass
    for (int x = 0; x < 4; ++x) {
      V d[4];
      for (int y = 0; y < 4; ++y) {
        const int64_t position = corner + y * c.step_y + x * c.step_x;
        d[y] = V::load(source.frame + position * source.stride + channel, lanes);
      }
      input_line(d, rows[x]);
    }
    for (int i = 0; i < 4; ++i) {
      const V d[4] = {rows[0][i], rows[1][i], rows[2][i], rows[3][i]};
      V line[4];
      input_line(d, line);
      for (int j = 0; j < 4; ++j) line[j].store(out + (4 * i + j) * position_stride + channel, lanes);
    }
  }
}

// The products of one row block at one Winograd position: products[tile][row_block], for all tiles.
template <class T>
void multiply_position(const T* weight, const T* values, int64_t value_stride, int64_t channels, int64_t tiles, T* products) {
  using V = Vec<T>;
  const auto product = [&](auto size, int64_t tile) __attribute__((always_inline)) {
    constexpr int N = decltype(size)::value;
    V sums[N][2];
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      sums[j][0] = sums[j][1] = V(T(0));
      left[j] = values + (tile + j) * value_stride;
    }
    multiply_channels<T, N>(sums, left, weight, channels);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      sums[j][0].store(products + (tile + j) * kRowBlock<T>);
      sums[j][1].store(products + (tile + j) * kRowBlock<T> + V::size);
    }
  };
  int64_t tile = 0;
  for (; tile + kTile <= tiles; tile += kTile) product(Constant<kTile>(), tile);
  for (; tile < tiles; ++tile) product(Constant<1>(), tile);
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
  const int64_t value_position = tiles * source.channels + kGap, product_position = tiles * kRowBlock<T> + kGap;
  T* values = scratch;                           // [16][tiles][channels]
  T* products = scratch + 16 * value_position;   // [16][tiles][row_block]
  for (int64_t tile = 0; tile < tiles; ++tile)
    transform_input(c, source, corners[tile], values + tile * source.channels, value_position);
  for (int64_t row = 0; row < c.rows; row += kRowBlock<T>) {
    const T* block = c.weight + row * 16 * c.channels;
    for (int position = 0; position < 16; ++position)
      multiply_position(block + position * c.channels * kRowBlock<T>, values + position * value_position, source.channels,
                        source.channels, tiles, products + position * product_position);
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t lane = 0; lane < kRowBlock<T>; lane += V::size)
        transform_output(products + tile * kRowBlock<T> + lane, product_position, V::load(init + row + lane),
                         out + 4 * tile * c.rows + row + lane, c.rows);
  }
}

// Line `line` of B^T d B of one tile to out[4][position_stride]: d's rows y0 and y1 are subtracted or added.
template <class T>
void transform_input_line(const WinogradConvolution<T>& c, const Source<T>& source, int64_t corner, int line, T* out,
                          int64_t position_stride) {
  using V = Vec<T>;
  constexpr int kPlus[4] = {0, 1, 2, 1}, kOther[4] = {2, 2, 1, 3};
  const T* plus = source.frame + (corner + kPlus[line] * c.step_y) * source.stride;
  const T* other = source.frame + (corner + kOther[line] * c.step_y) * source.stride;
  for (int64_t channel = 0; channel < source.channels; channel += V::size) {
    const int lanes = lanes_at<T>(channel, source.channels);
    V d[4], result[4];
    for (int x = 0; x < 4; ++x) {
      const int64_t at = x * c.step_x * source.stride + channel;
      const V a = V::load(plus + at, lanes), b = V::load(other + at, lanes);
      d[x] = line == 1 ? a + b : a - b;
    }
    input_line(d, result);
    for (int j = 0; j < 4; ++j) result[j].store(out + j * position_stride + channel, lanes);
  }
}

// Line `line` of A y A^T, y the gradients at a tile's four pixels, to out[4][position_stride].
template <class T>
void transform_gradient_line(const WinogradConvolution<T>& c, const Source<T>& dgates, int64_t first, int line,
                             int64_t first_row, int64_t rows, T* out, int64_t position_stride) {
  using V = Vec<T>;
  const T* top = dgates.frame + first * dgates.stride + first_row;
  for (int64_t row = 0; row < rows; row += V::size) {
    const int64_t left = dgates.channels - first_row - row;
    const int lanes = left < V::size ? static_cast<int>(left < 0 ? 0 : left) : V::size;
    V y[2];
    for (int x = 0; x < 2; ++x) {
      const T* at = top + x * c.step_x * dgates.stride + row;
      const V a = V::load(at, lanes), b = V::load(at + c.step_y * dgates.stride, lanes);
      y[x] = line == 0 ? a : line == 1 ? a + b : line == 2 ? a - b : V(T(0)) - b;
    }
    y[0].store(out + row);
    (y[0] + y[1]).store(out + position_stride + row);
    (y[0] - y[1]).store(out + 2 * position_stride + row);
    (V(T(0)) - y[1]).store(out + 3 * position_stride + row);
  }
}

// dweight[channel][row_block] += the products of one Winograd position, summed over the tiles.
template <class T>
void add_products(const T* values, int64_t channels, const T* gradients, int64_t gradient_stride, int64_t tiles, T* dweight) {
  using V = Vec<T>;
  const auto add = [&](auto size, int64_t channel) __attribute__((always_inline)) {
    constexpr int N = decltype(size)::value;
    V sums[N][2];
    const T* left[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      sums[j][0] = sums[j][1] = V(T(0));
      left[j] = values + channel + j;
    }
    multiply<T, N>(sums, left, channels, gradients, gradient_stride, tiles);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      T* total = dweight + (channel + j) * kRowBlock<T>;
      (V::load(total) + sums[j][0]).store(total);
      (V::load(total + V::size) + sums[j][1]).store(total + V::size);
    }
  };
  int64_t channel = 0;
  for (; channel + kTile <= channels; channel += kTile) add(Constant<kTile>(), channel);
  for (; channel + 2 <= channels; channel += 2) add(Constant<2>(), channel);
  for (; channel < channels; ++channel) add(Constant<1>(), channel);
}

template <class T>
void winograd_weight_gradient(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners,
                              const Source<T>& dgates, const int64_t* firsts, int64_t tiles, int line, int64_t first_block,
                              int64_t blocks, T* scratch, T* dweight) {
  const int64_t rows = blocks * kRowBlock<T>;
  for (int64_t start = 0; start < tiles; start += kGradientTiles) {
    const int64_t count = tiles - start < kGradientTiles ? tiles - start : kGradientTiles;
    const int64_t value_position = count * source.channels + kGap, gradient_position = count * rows + kGap;
    T* values = scratch;                          // [4][tiles][channels]
    T* gradients = scratch + 4 * value_position;  // [4][tiles][rows]
    for (int64_t tile = 0; tile < count; ++tile) {
      transform_input_line(c, source, corners[start + tile], line, values + tile * source.channels, value_position);
      transform_gradient_line(c, dgates, firsts[start + tile], line, first_block * kRowBlock<T>, rows,
                              gradients + tile * rows, gradient_position);
    }
    for (int64_t block = 0; block < blocks; ++block)
      for (int j = 0; j < 4; ++j)
        add_products(values + j * value_position, source.channels,
                     gradients + j * gradient_position + block * kRowBlock<T>, rows, count,
                     dweight + ((first_block + block) * 16 + 4 * line + j) * c.channels * kRowBlock<T>);
  }
}

}  // namespace pdb::cpu::PDB_ISA
