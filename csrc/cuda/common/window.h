// How the convolution kernels divide images among blocks: tiles of pixels times groups of output rows.
#pragma once

#include "cuda/common/launch.h"

namespace pdb::cuda {

// Division of numbers below 2^16 by a fixed one, with a multiplication: there n / d = n * ceil(2^32 / d) / 2^32.
struct Divisor {
  unsigned divisor, factor;

  PDB_HD explicit Divisor(unsigned divisor) : divisor(divisor), factor(0xFFFFFFFFu / divisor + 1) {}
  PDB_HD unsigned quotient(unsigned n) const {
    return divisor == 1 ? n : static_cast<unsigned>(static_cast<uint64_t>(n) * factor >> 32);
  }
};

// A block's tile: its first pixel, and the image and kernel it belongs to.
struct Window {
  int64_t height, width, kernel, dilation;
  int64_t y, x;  // first pixel of the tile

  __device__ int64_t pixels() const { return height * width; }
  __device__ int64_t radius() const { return kernel / 2 * dilation; }
  __device__ bool contains(int64_t row, int64_t column) const {
    return row >= 0 && row < height && column >= 0 && column < width;
  }
};

// Block index = (image * groups + group) * tiles + tile.
struct BlockPlan {
  int64_t height, width, kernel, dilation, tile_height, tile_width, tiles_x, tiles, groups;

  // A block computes group_outputs of the outputs for one tile.
  BlockPlan(const Layer& layer, int64_t tile_height, int64_t tile_width, int64_t outputs, int64_t group_outputs)
      : height(layer.height),
        width(layer.width),
        kernel(layer.kernel),
        dilation(layer.dilation),
        tile_height(tile_height),
        tile_width(tile_width),
        tiles_x((width + tile_width - 1) / tile_width),
        tiles(tiles_x * ((height + tile_height - 1) / tile_height)),
        groups((outputs + group_outputs - 1) / group_outputs) {}

  int64_t blocks(int64_t images) const { return images * groups * tiles; }

  __device__ int64_t image() const { return quotient(quotient(blockIdx.x, tiles), groups); }
  __device__ int64_t group() const { return quotient(blockIdx.x, tiles) - image() * groups; }
  __device__ Window window() const {
    const int64_t tile = blockIdx.x - quotient(blockIdx.x, tiles) * tiles, row = quotient(tile, tiles_x);
    return {height, width, kernel, dilation, row * tile_height, (tile - row * tiles_x) * tile_width};
  }
};

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp() { return threadIdx.x / 32; }

}  // namespace pdb::cuda
