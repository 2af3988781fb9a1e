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
#pragma once

#include "cpu/kernels/convolution_impl.h"

namespace pdb::cpu::PDB_ISA {

// G g G^T for a vector of filters g, element (y, x) at g[y * row + x * column], to out[16][position].
template <class T>
PDB_INLINE void transform_filter(const T* g, int64_t row, int64_t column, T* out, int64_t position) {
  using V = Vec<T>;
  const V half(T(0.5));
  V lines[4][3];
#pragma GCC unroll 3
  for (int x = 0; x < 3; ++x) {
    const V a = V::load(g + x * column), b = V::load(g + row + x * column), c = V::load(g + 2 * row + x * column);
    lines[0][x] = a, lines[1][x] = half * (a + b + c), lines[2][x] = half * (a - b + c), lines[3][x] = c;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V a = lines[i][0], b = lines[i][1], c = lines[i][2];
    T* to = out + 4 * i * position;
    a.store(to);
    (half * (a + b + c)).store(to + position);
    (half * (a - b + c)).store(to + 2 * position);
    c.store(to + 3 * position);
  }
}

template <class T>
void winograd_filters(const T* filters, int64_t channels, bool mirrored, T* packed, int64_t position) {
  constexpr int64_t block = kRowBlock<T>;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t lane = 0; lane < block; lane += Vec<T>::size) {
      const T* g = filters + 9 * c * block + lane;
      T* to = packed + c * block + lane;
      mirrored ? transform_filter(g + 8 * block, -3 * block, -block, to, position)
               : transform_filter(g, 3 * block, block, to, position);
    }
}

// G^T u G for a vector of transformed filters u[16][position], to g[9][row_block].
template <class T>
PDB_INLINE void transform_filter_gradient(const T* u, int64_t position, T* g) {
  using V = Vec<T>;
  const V half(T(0.5));
  V lines[3][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const V a = V::load(u + j * position), b = V::load(u + (4 + j) * position), c = V::load(u + (8 + j) * position),
            d = V::load(u + (12 + j) * position);
    lines[0][j] = a + half * (b + c), lines[1][j] = half * (b - c), lines[2][j] = half * (b + c) + d;
  }
#pragma GCC unroll 3
  for (int y = 0; y < 3; ++y) {
    T* to = g + 3 * y * kRowBlock<T>;
    (lines[y][0] + half * (lines[y][1] + lines[y][2])).store(to);
    (half * (lines[y][1] - lines[y][2])).store(to + kRowBlock<T>);
    (half * (lines[y][1] + lines[y][2]) + lines[y][3]).store(to + 2 * kRowBlock<T>);
  }
}

template <class T>
void winograd_filter_gradients(const T* packed, int64_t position, int64_t channels, T* filters) {
  constexpr int64_t block = kRowBlock<T>;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t lane = 0; lane < block; lane += Vec<T>::size)
      transform_filter_gradient(packed + c * block + lane, position, filters + 9 * c * block + lane);
}

}  // namespace pdb::cpu::PDB_ISA
