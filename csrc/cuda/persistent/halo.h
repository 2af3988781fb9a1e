// Where a block of the persistent kernels works, what it waits for, and how its tile with the halo gets into shared
// memory. A block has one tile of 8 x 8 pixels, and one group of channels, for the whole sequence. In shared memory a
// window (the tile with its halo) is stored pixel by pixel, `chunks` chunks of depth each. The pitch is odd: lanes that
// read neighbouring pixels then hit different banks.
#pragma once

#include "cuda/common/window.h"
#include "cuda/persistent/flags.h"

namespace pdb::cuda {

constexpr int kTile = 8;
constexpr int kPersistentThreads = 256;

PDB_HD int chunk_pitch(int chunks) { return chunks | 1; }

// Sizes that all layers of a launch share.
struct PersistentShape {
  int channels, height, width, steps, batch, kernel, depth, groups, tiles_y, tiles_x;
  int recurrent_chunks;  // depth of the recurrent convolution
  int side_chunks;       // depth of the side weight in shared memory; 0: it alternates with the recurrent weight
  int window_side;       // of the largest window
  int steps_at_once;     // whose side sums are computed together if the weights alternate
  int gradient_stride;   // channels from one gate's to the next one's in the depth of the gate gradients: whole chunks
  bool peephole_current;

  // Within a frame of a sequence indices have 32 bits (PersistentPlan makes sure that they fit), between frames 64.
  PDB_HD int pixels() const { return height * width; }
  PDB_HD int64_t state() const { return int64_t(batch) * channels * pixels(); }
  PDB_HD int taps() const { return kernel * kernel; }
};

// The window of a layer: a tile with its halo. It has fewer than 2^16 chunks, since it fits in shared memory.
struct WindowSize {
  int radius;
  Divisor side, area, chunks;  // chunks: of the recurrent depth

  __device__ WindowSize(int radius, int recurrent_chunks)
      : radius(radius), side(kTile + 2 * radius), area(side.divisor * side.divisor), chunks(recurrent_chunks) {}
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

  __device__ int y() const { return tile_y * kTile; }
  __device__ int x() const { return tile_x * kTile; }
};

// The cells of a thread: where each is in its image, and whether it is inside the image at all.
template <class Core>
struct OwnCells {
  const PersistentShape& shape;
  const Place& place;

  __device__ __forceinline__ int channel(int j) const { return place.group * Core::kGroupChannels + Core::channel(j); }
  __device__ __forceinline__ bool valid(int j) const {
    return channel(j) < shape.channels && place.y() + Core::y(j) < shape.height && place.x() + Core::x(j) < shape.width;
  }
  // Its place in an array (N, channels, H, W); `channels`: those of the array.
  __device__ __forceinline__ int at(int j, int channels) const {
    return ((place.image * channels + channel(j)) * shape.height + place.y() + Core::y(j)) * shape.width + place.x() +
           Core::x(j);
  }
  __device__ __forceinline__ int at(int j) const { return at(j, shape.channels); }

  // frame[at(j, channels)] = value(j) for all cells inside the image. pairs: every row of the array begins at a
  // multiple of two elements.
  template <class S, class Value>
  __device__ __forceinline__ void write(S* frame, int channels, bool pairs, const Value& value) const {
    if (Core::kPairs && pairs) {
#pragma unroll
      for (int j = 0; j < Core::kCells; j += 2)
        if (valid(j))
          store_global(reinterpret_cast<Pair<S>*>(frame + at(j, channels)), Pair<S>{value(j), value(j + 1)});
    } else {
#pragma unroll
      for (int j = 0; j < Core::kCells; ++j)
        if (valid(j)) store_global(frame + at(j, channels), value(j));
    }
  }

  // The reverse: read(j, frame[at(j, channels)]). Cells outside the image read something inside the array.
  template <class S, class Read>
  __device__ __forceinline__ void read(const S* frame, int channels, bool pairs, const Read& read) const {
    if (Core::kPairs && pairs) {
#pragma unroll
      for (int j = 0; j < Core::kCells; j += 2) {
        const Pair<S> both = *reinterpret_cast<const Pair<S>*>(frame + (valid(j) ? at(j, channels) : 0));
        read(j, both.first), read(j + 1, both.second);
      }
    } else {
#pragma unroll
      for (int j = 0; j < Core::kCells; ++j) read(j, frame[valid(j) ? at(j, channels) : 0]);
    }
  }
};

// Whether pairs of elements of these arrays, whose rows have `width` elements, can be read as one. Null: no array.
template <class... S>
bool in_pairs(int64_t width, const S*... arrays) {
  const bool aligned[] = {true, reinterpret_cast<uintptr_t>(arrays) % (2 * sizeof(S)) == 0 ...};
  for (const bool one : aligned)
    if (!one) return false;
  return width % 2 == 0;
}

// Waits until every tile that the window meets, in all groups of channels, has published at least `value`. Tiles beyond
// the border do not exist. The relation is symmetric: a block waits for exactly those that read its tile.
__device__ __forceinline__ void await_neighbours(const PersistentShape& shape, const Place& place,
                                                 const uint32_t* flags, int radius, uint32_t value, Waiting waiting) {
  const int reach = (radius + kTile - 1) / kTile, side = 2 * reach + 1;
  const int image = place.chain * shape.batch + place.image;
  for (int i = threadIdx.x; i < side * side * shape.groups; i += kPersistentThreads) {
    const int group = i / (side * side);
    const int y = place.tile_y + i / side % side - reach, x = place.tile_x + i % side - reach;
    if (y < 0 || y >= shape.tiles_y || x < 0 || x >= shape.tiles_x) continue;
    if (y == place.tile_y && x == place.tile_x && group == place.group) continue;
    PDB_AWAIT(flags + ((image * shape.groups + group) * shape.tiles_y + y) * shape.tiles_x + x, value, waiting);
  }
  __syncthreads();
}

// The channels in a chunk of depth: `count` of them from `first` on, then zeros.
struct ChunkRows {
  int first, count;
};

// Reads chunks [first, first + chunks) of the depth of an image of separate channels; zeros outside. rows(chunk): the
// channels in the chunk. Sixteen loads are in flight at a time, all from valid addresses, so that there are no branches
// between them.
template <class Core, class S, class Rows>
__device__ __forceinline__ void load_channels(Chunk* tile, int pitch, const S* image, int first, int chunks,
                                              const PersistentShape& shape, const Place& place,
                                              const WindowSize& window, const Rows& rows) {
  constexpr int kPer = Core::kPerChunk, kUnits = 16 / kPer;
  const unsigned units = chunks * window.area.divisor;
  const int pixels = shape.pixels();
  for (unsigned begin = threadIdx.x; begin < units; begin += kUnits * kPersistentThreads) {
    S value[kUnits][kPer];
    int target[kUnits], count[kUnits];
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const unsigned unit = begin + u * kPersistentThreads, chunk = window.area.quotient(unit);
      const unsigned pixel = unit - chunk * window.area.divisor, row = window.side.quotient(pixel);
      const int y = place.y() - window.radius + int(row);
      const int x = place.x() - window.radius + int(pixel - row * window.side.divisor);
      const bool wanted = unit < units && unsigned(y) < unsigned(shape.height) && unsigned(x) < unsigned(shape.width);
      const ChunkRows channels = rows(first + int(chunk));
      target[u] = unit < units ? int(pixel * pitch + chunk) : -1;
      count[u] = wanted ? channels.count : 0;
      const S* const source = image + (count[u] > 0 ? channels.first * pixels + y * shape.width + x : 0);
#pragma unroll
      for (int i = 0; i < kPer; ++i) value[u][i] = load_global(source + (i < count[u] ? i * pixels : 0));
    }
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      typename Core::Element element[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) element[i] = i < count[u] ? Core::element(value[u][i]) : typename Core::Element(0);
      if (target[u] >= 0) tile[target[u]] = Core::join(element);
    }
  }
}

// The part of the depth that this block computes itself.
struct OwnChunks {
  int begin, end;
};

// Reads what other blocks have written of the recurrent window from an exchange buffer (H, W, chunks). What lies
// outside the image is zero already, and what this block owns is already there. Loads come in batches, to wait for L2
// once.
__device__ __forceinline__ void load_ring(Chunk* tile, const Chunk* exchange, const PersistentShape& shape,
                                          const Place& place, const WindowSize& window, OwnChunks own) {
  constexpr int kBatch = 4;
  const unsigned units = window.area.divisor * window.chunks.divisor;
  const int chunks = int(window.chunks.divisor), pitch = chunk_pitch(chunks), radius = window.radius;
  for (unsigned begin = threadIdx.x; begin < units; begin += kBatch * kPersistentThreads) {
    Chunk value[kBatch];
    int target[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const unsigned unit = begin + b * kPersistentThreads, pixel = window.chunks.quotient(unit);
      const unsigned line = window.side.quotient(pixel);
      const int chunk = int(unit - pixel * window.chunks.divisor);
      const int row = int(line) - radius, column = int(pixel - line * window.side.divisor) - radius;
      const int y = place.y() + row, x = place.x() + column;
      const bool mine = unsigned(row) < kTile && unsigned(column) < kTile && chunk >= own.begin && chunk < own.end;
      const bool wanted =
          unit < units && !mine && unsigned(y) < unsigned(shape.height) && unsigned(x) < unsigned(shape.width);
      target[b] = wanted ? int(pixel) * pitch + chunk : -1;
      if (wanted) value[b] = load_global(exchange + (y * shape.width + x) * chunks + chunk);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (target[b] >= 0) tile[target[b]] = value[b];
  }
}

// The reverse: stores this block's own part of the window, for its neighbours.
__device__ __forceinline__ void store_own(const Chunk* tile, Chunk* exchange, const PersistentShape& shape,
                                          const Place& place, const WindowSize& window, OwnChunks own) {
  const int side = int(window.side.divisor), chunks = int(window.chunks.divisor), radius = window.radius;
  const Divisor count(own.end - own.begin);
  for (unsigned unit = threadIdx.x; unit < kTile * kTile * count.divisor; unit += kPersistentThreads) {
    const unsigned pixel = count.quotient(unit);
    const int row = pixel / kTile, column = pixel % kTile, chunk = own.begin + int(unit - pixel * count.divisor);
    const int y = place.y() + row, x = place.x() + column;
    if (y >= shape.height || x >= shape.width) continue;
    store_global(exchange + (y * shape.width + x) * chunks + chunk,
                 tile[((row + radius) * side + column + radius) * chunk_pitch(chunks) + chunk]);
  }
}

}  // namespace pdb::cuda
