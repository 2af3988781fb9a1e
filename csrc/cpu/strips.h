// How an image is cut into strips, for the direct convolution (48 consecutive pixels) and for Winograd's (24 tiles).
#pragma once

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
  // Winograd only: strip i has the tiles from i * kStripTiles on.
  std::vector<int64_t> corner;  // frame position of the top left of the 4x4 pixels that the tile reads
  std::vector<int64_t> first;   // frame position of its first pixel

  int64_t size() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t pixels(int64_t strip) const { return begin[strip + 1] - begin[strip]; }
  int64_t tiles(int64_t strip) const {
    const int64_t left = static_cast<int64_t>(first.size()) - strip * kStripTiles;
    return left < kStripTiles ? left : kStripTiles;
  }

  static Strips rows(const Grid& grid) {
    Strips strips;
    constexpr int64_t kPixels = 48;  // a multiple of every kernel's tile of pixels
    for (int64_t pixel = 0; pixel < grid.pixels(); ++pixel) {
      strips.add(grid, pixel, pixel % kPixels);
      if (pixel % kPixels == kPixels - 1) strips.close();
    }
    strips.close();
    return strips;
  }

  // Tiles of 2x2 pixels that are `dilation` apart. At the lower and right edges they hang over; there are no entries
  // for pixels outside.
  static Strips tiled(const Grid& grid, int64_t dilation) {
    Strips strips;
    for (int64_t y = 0; y < grid.height; y += y % dilation == dilation - 1 ? dilation + 1 : 1)
      for (int64_t x = 0; x < grid.width; x += x % dilation == dilation - 1 ? dilation + 1 : 1)
        strips.add_tile(grid, y, x, dilation);
    strips.close();
    return strips;
  }

 private:
  void add(const Grid& grid, int64_t at, int64_t in_strip) {
    pixel.push_back(at);
    position.push_back(grid.position(at));
    slot.push_back(in_strip);
  }
  void close() {
    if (static_cast<int64_t>(pixel.size()) > begin.back()) begin.push_back(static_cast<int64_t>(pixel.size()));
  }
  void add_tile(const Grid& grid, int64_t y, int64_t x, int64_t dilation) {
    const int64_t in_strip = static_cast<int64_t>(first.size()) % kStripTiles;
    first.push_back(grid.position(y, x));
    corner.push_back(grid.position(y - dilation, x - dilation));
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t at_y = y + i / 2 * dilation, at_x = x + i % 2 * dilation;
      if (at_y < grid.height && at_x < grid.width) add(grid, at_y * grid.width + at_x, 4 * in_strip + i);
    }
    if (in_strip == kStripTiles - 1) close();
  }
};

}  // namespace pdb::cpu
