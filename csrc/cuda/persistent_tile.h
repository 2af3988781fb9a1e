// Where a block of the persistent kernels works, what it waits for, and how its tile with the halo gets into shared memory.
// A block has one tile of 8 x 8 pixels, and one group of channels, for the whole sequence. In shared memory a window (the
// tile with its halo) is stored pixel by pixel, `chunks` chunks of depth each, kept an odd number of chunks apart: lanes
// that read neighbouring pixels then hit different banks.
#pragma once

#include "halo_flags.h"
#include "window.h"

namespace pdb::cuda {

constexpr int kTile = 8;
constexpr int kPersistentThreads = 256;

PDB_HD int chunk_pitch(int chunks) { return chunks | 1; }

// Sizes that all layers of a launch share.
struct PersistentShape {
  int64_t channels, height, width;
  int steps, batch, kernel, depth, groups, tiles_y, tiles_x;
  int recurrent_chunks;  // depth of the recurrent convolution
  int side_chunks;       // depth of the side weight in shared memory; 0: it is read from global memory
  int window_chunks;     // room for the largest recurrent window
  int gradient_stride;   // channels from one gate's to the next one's in the depth of the gate gradients
  bool peephole_current;

  PDB_HD int64_t pixels() const { return height * width; }
  PDB_HD int64_t state() const { return batch * channels * pixels(); }
  PDB_HD int taps() const { return kernel * kernel; }
};

// A block's place. Block index = ((chain * N + image) * groups + group) * tiles + tile.
struct Place {
  int chain, image, group, tile_y, tile_x;

  __device__ explicit Place(const PersistentShape& shape) {
    int index = static_cast<int>(blockIdx.x);
    tile_x = index % shape.tiles_x, index /= shape.tiles_x;
    tile_y = index % shape.tiles_y, index /= shape.tiles_y;
    group = index % shape.groups, index /= shape.groups;
    image = index % shape.batch, chain = index / shape.batch;
  }

  __device__ int64_t y() const { return int64_t(tile_y) * kTile; }
  __device__ int64_t x() const { return int64_t(tile_x) * kTile; }
};

// The cells of a thread: where each is in its image, and whether it is in the image at all.
template <class Core>
struct OwnCells {
  const PersistentShape& shape;
  const Place& place;

  __device__ __forceinline__ int64_t channel(int j) const { return place.group * Core::kGroupChannels + Core::channel(j); }
  __device__ __forceinline__ bool valid(int j) const {
    return channel(j) < shape.channels && place.y() + Core::y(j) < shape.height && place.x() + Core::x(j) < shape.width;
  }
  // Its place in an array (N, channels, H, W); `channels`: of the array.
  __device__ __forceinline__ int64_t at(int j, int64_t channels) const {
    return ((place.image * channels + channel(j)) * shape.height + place.y() + Core::y(j)) * shape.width + place.x() +
           Core::x(j);
  }
  __device__ __forceinline__ int64_t at(int j) const { return at(j, shape.channels); }
};

// Waits until every tile that the window meets, in all groups of channels, has published at least `value`. A tile beyond
// the border does not exist. The relation is symmetric: who reads my tile is whom I wait for.
__device__ __forceinline__ void await_neighbours(const PersistentShape& shape, const Place& place, const uint32_t* flags,
                                                 int radius, uint32_t value) {
  const int reach = (radius + kTile - 1) / kTile, side = 2 * reach + 1;
  const int64_t image = int64_t(place.chain) * shape.batch + place.image;
  for (int i = threadIdx.x; i < side * side * shape.groups; i += blockDim.x) {
    const int group = i / (side * side);
    const int y = place.tile_y + i / side % side - reach, x = place.tile_x + i % side - reach;
    if (y < 0 || y >= shape.tiles_y || x < 0 || x >= shape.tiles_x) continue;
    if (y == place.tile_y && x == place.tile_x && group == place.group) continue;
    PDB_AWAIT(flags + ((image * shape.groups + group) * shape.tiles_y + y) * shape.tiles_x + x, value);
  }
  __syncthreads();
}

// Reads chunks [first, first + chunks) of the depth of an image of separate channels; zeros outside. row(k) is the
// channel of depth k, or -1.
template <class Core, class S, class Row>
__device__ __forceinline__ void load_channels(Chunk* tile, int pitch, const S* image, int first, int chunks,
                                              const PersistentShape& shape, const Place& place, int radius,
                                              const Row& row) {
  const int side = kTile + 2 * radius;
  for (int unit = threadIdx.x; unit < chunks * side * side; unit += blockDim.x) {
    const int pixel = unit % (side * side), chunk = unit / (side * side);
    const int64_t y = place.y() - radius + pixel / side, x = place.x() - radius + pixel % side;
    Chunk value{};
    if (y >= 0 && y < shape.height && x >= 0 && x < shape.width) {
      typename Core::Element element[Core::kPerChunk];
#pragma unroll
      for (int i = 0; i < Core::kPerChunk; ++i) {
        const int64_t channel = row((first + chunk) * Core::kPerChunk + i);
        element[i] = Core::element(channel < 0 ? S{} : load_global(image + channel * shape.pixels() + y * shape.width + x));
      }
      value = Core::join(element);
    }
    tile[pixel * pitch + chunk] = value;
  }
}

// The part of the depth that this block computes itself.
struct OwnChunks {
  int begin, end;
};

// Reads what other blocks have written of the recurrent window from an exchange buffer (H, W, chunks); what lies outside
// the image is zero already, what this block owns is there. Loads come in batches, to wait for L2 once.
__device__ __forceinline__ void load_ring(Chunk* tile, const Chunk* exchange, const PersistentShape& shape,
                                          const Place& place, int radius, OwnChunks own) {
  constexpr int kBatch = 4;
  const int side = kTile + 2 * radius, chunks = shape.recurrent_chunks, pitch = chunk_pitch(chunks);
  const int units = side * side * chunks;
  for (int begin = threadIdx.x; begin < units; begin += kBatch * blockDim.x) {
    Chunk value[kBatch];
    int target[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int unit = begin + b * blockDim.x, pixel = unit / chunks, chunk = unit % chunks;
      const int row = pixel / side - radius, column = pixel % side - radius;
      const int64_t y = place.y() + row, x = place.x() + column;
      const bool mine = row >= 0 && row < kTile && column >= 0 && column < kTile && chunk >= own.begin && chunk < own.end;
      target[b] = -1;
      if (unit >= units || mine || y < 0 || y >= shape.height || x < 0 || x >= shape.width) continue;
      target[b] = pixel * pitch + chunk;
      value[b] = load_global(exchange + (y * shape.width + x) * chunks + chunk);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (target[b] >= 0) tile[target[b]] = value[b];
  }
}

// The reverse: this block's own part of the window, for its neighbours.
__device__ __forceinline__ void store_own(const Chunk* tile, Chunk* exchange, const PersistentShape& shape,
                                          const Place& place, int radius, OwnChunks own) {
  const int side = kTile + 2 * radius, chunks = shape.recurrent_chunks, count = own.end - own.begin;
  for (int unit = threadIdx.x; unit < kTile * kTile * count; unit += blockDim.x) {
    const int row = unit / count / kTile, column = unit / count % kTile, chunk = own.begin + unit % count;
    const int64_t y = place.y() + row, x = place.x() + column;
    if (y >= shape.height || x >= shape.width) continue;
    store_global(exchange + (y * shape.width + x) * chunks + chunk,
                 tile[((row + radius) * side + column + radius) * chunk_pitch(chunks) + chunk]);
  }
}

}  // namespace pdb::cuda
