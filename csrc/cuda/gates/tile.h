// How the kernels between a library's convolutions divide images among blocks. A block works on a tile of kTile pixels
// by kTile channels of one image. In the cell neighbouring lanes have neighbouring pixels. Arrays whose channels are
// neighbours in memory (Layout::channels_last) go through shared memory, so that all reads and writes cover whole rows
// of a tile in either order.
#pragma once

#include "cuda/common/launch.h"
#include "cuda/gates/layout.h"

namespace pdb::cuda {

constexpr int kTile = 32;  // one row: a warp
constexpr int kTileThreads = 256, kTileWarps = kTileThreads / 32;
constexpr int kTilePitch = kTile + 1;  // so that both rows and columns fall into different banks

// The tile of a block. Block index = (image * channel tiles + channel tile) * pixel tiles + pixel tile.
struct Tile {
  int64_t image, channel, pixel;  // the first of the tile
  int64_t channels, pixels;       // of the whole image
  Layout layout;

  __device__ bool contains(int64_t c, int64_t p) const { return channel + c < channels && pixel + p < pixels; }

  // Position of an element of the tile in an array of `gates` times C channels.
  __device__ int64_t at(int64_t gates, int64_t gate, int64_t c, int64_t p) const {
    const int64_t row = gate * channels + channel + c;
    return layout == Layout::contiguous ? (image * gates * channels + row) * pixels + pixel + p
                                        : (image * pixels + pixel + p) * gates * channels + row;
  }

  // Calls use(channel, pixel) for this thread's elements of the tile; neighbouring lanes get neighbouring pixels, or
  // neighbouring channels.
  template <class Use>
  __device__ __forceinline__ void for_each(bool pixels_first, const Use& use) const {
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < kTile; row += kTileWarps) {
      const int c = pixels_first ? row : lane, p = pixels_first ? lane : row;
      if (contains(c, p)) use(c, p);
    }
  }
};

struct TilePlan {
  int64_t channels, pixels, channel_tiles, pixel_tiles;
  Layout layout;

  TilePlan(const Layer& layer, Layout layout)
      : channels(layer.channels),
        pixels(layer.pixels()),
        channel_tiles((channels + kTile - 1) / kTile),
        pixel_tiles((pixels + kTile - 1) / kTile),
        layout(layout) {}

  int64_t blocks(int64_t images) const { return images * channel_tiles * pixel_tiles; }

  __device__ Tile tile() const {
    const int64_t rest = quotient(blockIdx.x, pixel_tiles), image = quotient(rest, channel_tiles);
    return {image, (rest - image * channel_tiles) * kTile, (blockIdx.x - rest * pixel_tiles) * kTile, channels, pixels,
            layout};
  }
};

}  // namespace pdb::cuda
