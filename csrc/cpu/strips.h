// How an image is cut into strips, for the direct convolution (up to 96 consecutive pixels) and for Winograd's (up to
// 24 tiles).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/kernels/kernels.h"
#include "cpu/layout.h"

namespace pdb::cpu {

struct Strips {
  std::vector<int64_t> begin{0};  // strip i has the entries begin[i] .. begin[i + 1]
  std::vector<int64_t> pixel;     // of each entry: its pixel in the image,
  std::vector<int64_t> position;  // in a frame,
  std::vector<int64_t> slot;      // and its place among the strip's pre-activations
  // Winograd only: strip i has the tiles from i * tiles_a_strip on.
  int64_t tiles_a_strip = kStripTiles;
  std::vector<int64_t> corner;  // frame position of the top left of the 4x4 pixels that the tile reads
  std::vector<int64_t> first;   // frame position of its first pixel

  int64_t size() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t pixels(int64_t strip) const { return begin[strip + 1] - begin[strip]; }
  int64_t tiles(int64_t strip) const {
    const int64_t left = static_cast<int64_t>(first.size()) - strip * tiles_a_strip;
    return left < tiles_a_strip ? left : tiles_a_strip;
  }
  const int64_t* corners(int64_t strip) const { return corner.data() + strip * tiles_a_strip; }

  // share: the number of strips of an image is to be a multiple of it, so that every thread gets as many.
  static Strips rows(const Grid& grid, int64_t share = 1) {
    Strips strips;
    const int64_t size = strip_size(grid.pixels(), kStripSlots, share);
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel) {
      strips.add(grid, pixel, pixel % size);
      if (pixel % size == size - 1) strips.close();
    }
    strips.close();
    return strips;
  }

  // Tiles of 2x2 pixels that are `dilation` apart. At the lower and right edges they hang over; there are no entries
  // for pixels outside.
  static Strips tiled(const Grid& grid, int64_t dilation, int64_t share = 1) {
    Strips strips;
    const int64_t half = 2 * dilation;
    const int64_t tiles = round_up(grid.height, half) * round_up(grid.width, half) / 4;
    strips.tiles_a_strip = strip_size(tiles, kStripTiles, share);
    for (int64_t y = 0; y < grid.height; y += y % dilation == dilation - 1 ? dilation + 1 : 1)
      for (int64_t x = 0; x < grid.width; x += x % dilation == dilation - 1 ? dilation + 1 : 1)
        strips.add_tile(grid, y, x, dilation);
    strips.close();
    return strips;
  }

 private:
  // Of `count` pixels or tiles at most `most` a strip, all strips alike, and whole tiles of registers (8 at most).
  static int64_t strip_size(int64_t count, int64_t most, int64_t share) {
    const int64_t strips = round_up((count + most - 1) / most, share);
    return round_up((count + strips - 1) / strips, 8);
  }
  void add(const Grid& grid, int64_t at, int64_t in_strip) {
    pixel.push_back(at);
    position.push_back(grid.position(at));
    slot.push_back(in_strip);
  }
  void close() {
    if (static_cast<int64_t>(pixel.size()) > begin.back()) begin.push_back(static_cast<int64_t>(pixel.size()));
  }
  void add_tile(const Grid& grid, int64_t y, int64_t x, int64_t dilation) {
    const int64_t in_strip = static_cast<int64_t>(first.size()) % tiles_a_strip;
    first.push_back(grid.position(y, x));
    corner.push_back(grid.position(y - dilation, x - dilation));
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t at_y = y + i / 2 * dilation, at_x = x + i % 2 * dilation;
      if (at_y < grid.height && at_x < grid.width) add(grid, at_y * grid.width + at_x, 4 * in_strip + i);
    }
    if (in_strip == tiles_a_strip - 1) close();
  }
};

// For every tap of a window, the pixels whose tap lies inside the image as they do, in order.
struct TappedPixels {
  std::vector<int64_t> begin{0};  // tap i has the entries begin[i] .. begin[i + 1]
  std::vector<int64_t> pixel;     // of each entry: its pixel in the image,
  std::vector<int64_t> position;  // and in a frame the one under the tap

  // sign: -1 for the transposed convolution.
  TappedPixels(const Grid& grid, const Window& window, int64_t sign) {
    const int64_t size = window.products(grid.height, grid.width);
    pixel.reserve(size);
    position.reserve(size);
    for (int64_t tap = 0; tap < window.size(); ++tap) add(grid, sign * window.tap_y(tap), sign * window.tap_x(tap));
  }
  // Calls body(first entry, count) for those of a tap that are among the pixels [first, last).
  template <class Body>
  void among(int64_t tap, int64_t first, int64_t last, const Body& body) const {
    const auto at = [&](int64_t limit) {
      return std::lower_bound(pixel.begin() + begin[tap], pixel.begin() + begin[tap + 1], limit) - pixel.begin();
    };
    const int64_t entry = at(first), count = at(last) - entry;
    if (count > 0) body(entry, count);
  }

 private:
  void add(const Grid& grid, int64_t dy, int64_t dx) {
    for (int64_t y = std::max<int64_t>(0, -dy); y < grid.height - std::max<int64_t>(0, dy); ++y)
      for (int64_t x = std::max<int64_t>(0, -dx); x < grid.width - std::max<int64_t>(0, dx); ++x) {
        pixel.push_back(y * grid.width + x);
        position.push_back(grid.position(y + dy, x + dx));
      }
    begin.push_back(static_cast<int64_t>(pixel.size()));
  }
};

}  // namespace pdb::cpu
