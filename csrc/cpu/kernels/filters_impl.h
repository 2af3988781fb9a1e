// Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016): the transform of weights and its transpose, for a row
// block of filters at a time. Tiles and the transforms of pixels are in winograd_impl.h.
//
// A tile is 2x2 pixels that are `dilation` apart. With g a 3x3 filter and d the 4x4 input pixels under the tile,
// equally far apart,
//     Y = A^T [(G g G^T) . (B^T d B)] A,
//     A^T = 1 1  1  0     G = 1    0   0      B^T = 1  0 -1  0
//           0 1 -1 -1         1/2  1/2 1/2          0  1  1  0
//                             1/2 -1/2 1/2          0 -1  1  0
//                             0    0   1            0  1  0 -1
// Entries of the transforms are 0, 1 and 1/2, so little accuracy is lost (larger tiles lose more).
//
// These are the points 0, 1, -1 and infinity. A filter of two taps, for three input pixels, does without -1:
//     G = 1 0     B^T = 1 -1  0
//         1 1           0  1  0
//         0 1           0  1 -1
// and the columns of A^T stay as they are, so that sums over parts of either kind are transformed back together.
#pragma once

#include "cpu/kernels/convolution_impl.h"

namespace pdb::cpu::PDB_ISA {

// The four values of a filter g along one axis; the third is not set if it is narrow.
template <bool narrow, class V>
PDB_INLINE void transform_filter_line(const V (&g)[3], V (&u)[4]) {
  u[0] = g[0];
  if (narrow) {
    u[1] = g[0] + g[1], u[3] = g[1];
  } else {
    using T = typename V::Scalar;
    const V half(T(0.5));
    u[1] = half * (g[0] + g[1] + g[2]), u[2] = half * (g[0] - g[1] + g[2]), u[3] = g[2];
  }
}

// Its transpose, for gradients.
template <bool narrow, class V>
PDB_INLINE void transform_filter_gradient_line(const V (&u)[4], V (&g)[3]) {
  if (narrow) {
    g[0] = u[0] + u[1], g[1] = u[1] + u[3];
  } else {
    using T = typename V::Scalar;
    const V half(T(0.5));
    g[0] = u[0] + half * (u[1] + u[2]), g[1] = half * (u[1] - u[2]), g[2] = half * (u[1] + u[2]) + u[3];
  }
}

// Where part (y, x) has its values at each position; of no meaning where it has none.
PDB_INLINE void slabs_of_part(const WinogradParts& parts, int64_t y, int64_t x, int64_t slab, int64_t (&at)[16]) {
  for (int position = 0; position < 16; ++position) at[position] = parts.index(position, y, x) * slab;
}

template <bool narrow_y, bool narrow_x, class T>
void transform_filters(const PartOfFilters<const T>& filters, int64_t channels, T* packed, const int64_t (&at)[16]) {
  using V = Vec<T>;
  constexpr int taps_y = narrow_y ? 2 : 3, taps_x = narrow_x ? 2 : 3;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t lane = 0; lane < kRowBlock<T>; lane += V::size) {
      const T* g = filters.first + c * filters.channel + lane;
      T* to = packed + c * kRowBlock<T> + lane;
      V lines[4][3];
#pragma GCC unroll 3
      for (int x = 0; x < taps_x; ++x) {
        V column[3], u[4];
#pragma GCC unroll 3
        for (int y = 0; y < taps_y; ++y) column[y] = V::load(g + y * filters.row + x * filters.column);
        transform_filter_line<narrow_y>(column, u);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          if (!(narrow_y && i == 2)) lines[i][x] = u[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (narrow_y && i == 2) continue;
        V u[4];
        transform_filter_line<narrow_x>(lines[i], u);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          if (!(narrow_x && j == 2)) u[j].store(to + at[4 * i + j]);
      }
    }
}

template <bool narrow_y, bool narrow_x, class T>
void transform_filter_gradients(const T* packed, const int64_t (&at)[16], int64_t channels,
                                const PartOfFilters<T>& filters) {
  using V = Vec<T>;
  constexpr int taps_y = narrow_y ? 2 : 3, taps_x = narrow_x ? 2 : 3;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t lane = 0; lane < kRowBlock<T>; lane += V::size) {
      const T* from = packed + c * kRowBlock<T> + lane;
      T* to = filters.first + c * filters.channel + lane;
      V lines[3][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        if (narrow_x && j == 2) continue;
        V u[4], g[3];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          if (!(narrow_y && i == 2)) u[i] = V::load(from + at[4 * i + j]);
        transform_filter_gradient_line<narrow_y>(u, g);
#pragma GCC unroll 3
        for (int y = 0; y < taps_y; ++y) lines[y][j] = g[y];
      }
#pragma GCC unroll 3
      for (int y = 0; y < taps_y; ++y) {
        V g[3];
        transform_filter_gradient_line<narrow_x>(lines[y], g);
#pragma GCC unroll 3
        for (int x = 0; x < taps_x; ++x) g[x].store(to + y * filters.row + x * filters.column);
      }
    }
}

// Calls body(narrow_y, narrow_x) with the kind of part (y, x) as constants.
template <class Body>
PDB_INLINE void with_kind_of_part(const WinogradParts& parts, int64_t y, int64_t x, Body body) {
  if (y < parts.wide)
    x < parts.wide ? body(Constant<0>(), Constant<0>()) : body(Constant<0>(), Constant<1>());
  else
    x < parts.wide ? body(Constant<1>(), Constant<0>()) : body(Constant<1>(), Constant<1>());
}

template <class T>
void winograd_filters(const PartOfFilters<const T>& filters, const WinogradParts& parts, int64_t y, int64_t x,
                      int64_t channels, T* packed, int64_t slab) {
  int64_t at[16];
  slabs_of_part(parts, y, x, slab, at);
  with_kind_of_part(parts, y, x, [&](auto narrow_y, auto narrow_x) __attribute__((always_inline)) {
    transform_filters<narrow_y.value, narrow_x.value>(filters, channels, packed, at);
  });
}

template <class T>
void winograd_filter_gradients(const T* packed, int64_t slab, const WinogradParts& parts, int64_t y, int64_t x,
                               int64_t channels, const PartOfFilters<T>& filters) {
  int64_t at[16];
  slabs_of_part(parts, y, x, slab, at);
  with_kind_of_part(parts, y, x, [&](auto narrow_y, auto narrow_x) __attribute__((always_inline)) {
    transform_filter_gradients<narrow_y.value, narrow_x.value>(packed, at, channels, filters);
  });
}

}  // namespace pdb::cpu::PDB_ISA
