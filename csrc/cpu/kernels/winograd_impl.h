// The Winograd kernels: transforms of tiles before and after 16 small matrix products (convolution_impl.h's multiply).
#pragma once

#include "cpu/kernels/filters_impl.h"

namespace pdb::cpu::PDB_ISA {

// Point `point` of one axis of B^T d; load(i) is the i-th pixel.
template <int point, bool narrow, class Load>
PDB_INLINE auto input_point(Load load) {
  constexpr int kPlus[4] = {0, 1, 2, 1}, kMinus[4] = {narrow ? 1 : 2, 2, 1, narrow ? 2 : 3};
  static_assert(!(narrow && point == 2), "a narrow part has no such point");
  if constexpr (point == 1)
    return narrow ? load(1) : load(1) + load(2);
  else
    return load(kPlus[point]) - load(kMinus[point]);
}

// Line `line` of B^T d B for one vector of channels of one tile, d at `tile`, to out[4][position_stride].
template <int line, bool narrow_y, bool narrow_x, class T>
PDB_INLINE void transform_input_line(const T* tile, int64_t step_y, int64_t step_x, int lanes, T* out,
                                     int64_t position_stride) {
  using V = Vec<T>;
  V d[4];
#pragma GCC unroll 4
  for (int x = 0; x < (narrow_x ? 3 : 4); ++x)
    d[x] = input_point<line, narrow_y>(
        [&](int y) __attribute__((always_inline)) { return V::load(tile + y * step_y + x * step_x, lanes); });
  const auto column = [&](int x) __attribute__((always_inline)) { return d[x]; };
  input_point<0, narrow_x>(column).store(out, lanes);
  input_point<1, narrow_x>(column).store(out + position_stride, lanes);
  if constexpr (!narrow_x) input_point<2, narrow_x>(column).store(out + 2 * position_stride, lanes);
  input_point<3, narrow_x>(column).store(out + 3 * position_stride, lanes);
}

// B^T d B of one part of the tiles of an image to out[16][position_stride], the tiles `width` apart.
template <bool narrow_y, bool narrow_x, class T>
void transform_input(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners, int64_t tiles,
                     int64_t shift, T* out, int64_t width, int64_t position_stride) {
  const int64_t step_y = c.step_y * source.stride, step_x = c.step_x * source.stride;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const T* from = source.frame + (corners[tile] + shift) * source.stride;
    T* to = out + tile * width;
    for_each_vector<T>(source.channels, [&](int64_t channel, int lanes) __attribute__((always_inline)) {
      const auto line = [&](auto number) __attribute__((always_inline)) {
        constexpr int kLine = decltype(number)::value;
        transform_input_line<kLine, narrow_y, narrow_x>(from + channel, step_y, step_x, lanes,
                                                        to + 4 * kLine * position_stride + channel, position_stride);
      };
      line(Constant<0>());
      line(Constant<1>());
      if constexpr (!narrow_y) line(Constant<2>());
      line(Constant<3>());
    });
  }
}

// The products of M vectors of one row block at one Winograd position: products[tile][row_block], for all tiles.
// weight: of the parts that have the position, part_stride apart; values: [tiles][parts.count()][channels]. Weights are
// read once per strip, and are too many for the nearer caches: the second group of tiles prefetches those of the next
// position, `ahead` values behind these.
template <class T, int M>
void multiply_position(const T* weight, int64_t part_stride, const T* values, const WinogradParts& parts, int position,
                       int64_t channels, int64_t tiles, T* products) {
  using V = Vec<T>;
  const int64_t parts_y = parts.along(position / 4), parts_x = parts.along(position % 4);
  const auto product = [&](auto size, auto prefetch, int64_t tile) __attribute__((always_inline)) {
    constexpr int N = decltype(size)::value;
    V sums[N][M];
    set_to_zero<T>(sums);
    const T* right = weight;
    for (int64_t y = 0; y < parts_y; ++y)
      for (int64_t x = 0; x < parts_x; ++x) {
        const T* left[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) left[j] = values + ((tile + j) * parts.count() + y * parts.side + x) * channels;
        multiply_channels<T, N, M, decltype(prefetch)::value != 0>(sums, left, right, channels,
                                                                   parts_y * parts_x * part_stride);
        right += part_stride;
      }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j)
      for (int i = 0; i < M; ++i) sums[j][i].store(products + (tile + j) * kRowBlock<T> + i * V::size);
  };
  for_each_tile(tiles, [&](auto size, int64_t tile) __attribute__((always_inline)) {
    if (tile > 0 && tile <= kTile)
      product(size, Constant<1>(), tile);
    else
      product(size, Constant<0>(), tile);
  });
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
  const WinogradParts& parts = c.parts;
  const int64_t width = parts.count() * source.channels, slab = c.channels * kRowBlock<T>;
  const int64_t value_position = tiles * width + kGap, product_position = tiles * kRowBlock<T> + kGap;
  T* values = scratch;                          // [16][tiles][parts.count()][channels]
  T* products = scratch + 16 * value_position;  // [16][tiles][row_block]
  for (int64_t part = 0; part < parts.count(); ++part)
    with_kind_of_part(
        parts, part / parts.side, part % parts.side, [&](auto narrow_y, auto narrow_x) __attribute__((always_inline)) {
          transform_input<narrow_y.value, narrow_x.value>(c, source, corners, tiles, c.shifts[part],
                                                          values + part * source.channels, width, value_position);
        });
  for (int64_t row = 0; row < c.rows; row += kRowBlock<T>) {
    const T* block = c.weight + row * parts.size() * c.channels;
    const int vectors = vectors_of_block<T>(c.rows - row);
    const auto multiply = vectors == 2 ? multiply_position<T, 2> : multiply_position<T, 1>;
    for (int position = 0; position < 16; ++position)
      multiply(block + parts.begin(position) * slab, slab, values + position * value_position, parts, position,
               source.channels, tiles, products + position * product_position);
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

// The transform of the values of one part of `count` tiles, to [4][tiles][channels].
template <int line, bool narrow_y, bool narrow_x, class T>
void transform_values(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners, int64_t shift,
                      int64_t count, T* values, int64_t value_position) {
  for (int64_t tile = 0; tile < count; ++tile) {
    const T* from = source.frame + (corners[tile] + shift) * source.stride;
    T* to = values + tile * source.channels;
    for_each_vector<T>(source.channels, [&](int64_t at, int lanes) __attribute__((always_inline)) {
      transform_input_line<line, narrow_y, narrow_x>(from + at, c.step_y * source.stride, c.step_x * source.stride,
                                                     lanes, to + at, value_position);
    });
  }
}

// The transform of the gradients of `count` tiles, to [4][tiles][rows], rows padded with zeros.
template <int line, class T>
void transform_gradients(const WinogradConvolution<T>& c, const Source<T>& dgates, const int64_t* firsts, int64_t count,
                         int64_t first_row, int64_t rows, T* gradients, int64_t gradient_position) {
  const int64_t present = dgates.channels - first_row < rows ? dgates.channels - first_row : rows;
  for (int64_t tile = 0; tile < count; ++tile) {
    const T* from = dgates.frame + firsts[tile] * dgates.stride + first_row;
    T* to = gradients + tile * rows;
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
  for_each_tile(channels, add);
}

// One line of positions, of all parts that have it.
template <int line, class T>
void add_line(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners, const Source<T>& dgates,
              const int64_t* firsts, int64_t tiles, int64_t first_block, int64_t blocks, T* scratch, T* dweight) {
  const WinogradParts& parts = c.parts;
  const int64_t rows = blocks * kRowBlock<T>, slab = c.channels * kRowBlock<T>;
  for (int64_t start = 0; start < tiles; start += kGradientTiles) {
    const int64_t count = tiles - start < kGradientTiles ? tiles - start : kGradientTiles;
    const int64_t value_position = count * source.channels + kGap, gradient_position = count * rows + kGap;
    T* values = scratch;                          // [4][tiles][channels]
    T* gradients = scratch + 4 * value_position;  // [4][tiles][rows]
    transform_gradients<line>(c, dgates, firsts + start, count, first_block * kRowBlock<T>, rows, gradients,
                              gradient_position);
    const auto add_part = [&](auto narrow_y, auto narrow_x, int64_t y, int64_t x) {
      transform_values<line, narrow_y.value, narrow_x.value>(c, source, corners + start, c.shifts[y * parts.side + x],
                                                             count, values, value_position);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t left = dgates.channels - (first_block + block) * kRowBlock<T>;
        const auto add = vectors_of_block<T>(left) == 2 ? add_products<T, 2> : add_products<T, 1>;
        for (int j = 0; j < 4; ++j)
          if (x < parts.along(j))
            add(values + j * value_position, source.channels, gradients + j * gradient_position + block * kRowBlock<T>,
                rows, count, dweight + ((first_block + block) * parts.size() + parts.index(4 * line + j, y, x)) * slab);
      }
    };
    for (int64_t y = 0; y < parts.along(line); ++y)
      for (int64_t x = 0; x < parts.side; ++x)
        with_kind_of_part(parts, y, x, [&](auto narrow_y, auto narrow_x) __attribute__((always_inline)) {
          if constexpr (!(narrow_y.value && line == 2)) add_part(narrow_y, narrow_x, y, x);
        });
  }
}

template <class T>
void winograd_weight_gradient(const WinogradConvolution<T>& c, const Source<T>& source, const int64_t* corners,
                              const Source<T>& dgates, const int64_t* firsts, int64_t tiles, int line,
                              int64_t first_block, int64_t blocks, T* scratch, T* dweight) {
  constexpr decltype(&add_line<0, T>) kLines[4] = {add_line<0, T>, add_line<1, T>, add_line<2, T>, add_line<3, T>};
  kLines[line](c, source, corners, dgates, firsts, tiles, first_block, blocks, scratch, dweight);
}

}  // namespace pdb::cpu::PDB_ISA
