// Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016): the transform of weights. Tiles and the transforms of
// pixels are in kernels/winograd_impl.h.
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

#include <algorithm>

#include "cpu/layout.h"

namespace pdb::cpu {

// G g G^T for the 3x3 filter g, element (y, x) at g[y * row + x * column]; element (i, j) to out[(4 * i + j) * stride].
template <class T>
void winograd_filter(const T* g, int64_t row, int64_t column, T* out, int64_t stride) {
  T lines[4][3];
  const T half = T(0.5);
  for (int x = 0; x < 3; ++x) {
    const T a = g[x * column], b = g[row + x * column], c = g[2 * row + x * column];
    lines[0][x] = a, lines[1][x] = half * (a + b + c), lines[2][x] = half * (a - b + c), lines[3][x] = c;
  }
  for (int i = 0; i < 4; ++i) {
    const T a = lines[i][0], b = lines[i][1], c = lines[i][2];
    T* to = out + 4 * i * stride;
    to[0] = a, to[stride] = half * (a + b + c), to[2 * stride] = half * (a - b + c), to[3 * stride] = c;
  }
}

// The transposed map, for gradients: G^T u G, u element (i, j) at u[(4 * i + j) * stride], to out, 3x3 contiguous.
template <class T>
void winograd_filter_gradient(const T* u, int64_t stride, T* out) {
  T lines[3][4];
  const T half = T(0.5);
  for (int j = 0; j < 4; ++j) {
    const T a = u[j * stride], b = u[(4 + j) * stride], c = u[(8 + j) * stride], d = u[(12 + j) * stride];
    lines[0][j] = a + half * (b + c), lines[1][j] = half * (b - c), lines[2][j] = half * (b + c) + d;
  }
  for (int y = 0; y < 3; ++y) {
    const T(&line)[4] = lines[y];
    out[3 * y] = line[0] + half * (line[1] + line[2]);
    out[3 * y + 1] = half * (line[1] - line[2]);
    out[3 * y + 2] = half * (line[1] + line[2]) + line[3];
  }
}

// Packs one row block of a weight of 3x3 filters in WinogradConvolution's layout: packed [16][channels][row_block].
// mirrored: rotated by 180 degrees, for the transposed convolution.
template <class T>
void pack_winograd_block(const T* weight, FilterStrides strides, bool mirrored, int64_t first_row, int64_t rows,
                         int64_t channels, int64_t row_block, T* packed) {
  const int64_t position = channels * row_block, count = std::min(row_block, rows - first_row);
  if (count < row_block) std::fill(packed, packed + 16 * position, T(0));
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      const T* g = weight + (first_row + r) * strides.row + c * strides.channel;
      T* to = packed + c * row_block + r;
      mirrored ? winograd_filter(g + 8, -3, -1, to, position) : winograd_filter(g, 3, 1, to, position);
    }
}

// The inverse, for a gradient.
template <class T>
void unpack_winograd_block(const T* packed, FilterStrides strides, int64_t first_row, int64_t rows, int64_t channels,
                           int64_t row_block, T* weight) {
  T lines[16 * kMaxRowBlock];  // of one channel: in `packed` they lie so far apart that they may share a cache set
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t position = 0; position < 16; ++position)
      std::copy_n(packed + (position * channels + c) * row_block, row_block, lines + position * row_block);
    for (int64_t r = 0; r < std::min(row_block, rows - first_row); ++r)
      winograd_filter_gradient(lines + r, row_block, weight + (first_row + r) * strides.row + c * strides.channel);
  }
}

}  // namespace pdb::cpu
