// Geometry: frames, and the window of a dilated convolution.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace pdb::cpu {

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// An image of height x width pixels inside its frame.
struct Grid {
  int64_t height, width;
  int64_t pad_y, pad_x;  // border on each side

  int64_t pixels() const { return height * width; }
  int64_t pitch() const { return width + 2 * pad_x; }  // frame pixels from one row to the next
  int64_t frame_pixels() const { return (height + 2 * pad_y) * pitch(); }
  int64_t position(int64_t y, int64_t x) const { return (y + pad_y) * pitch() + x + pad_x; }
  int64_t position(int64_t pixel) const { return position(pixel / width, pixel % width); }
};

// The window of a k x k convolution with "same" padding over images of one size, without the positions that can only
// ever meet padding (|offset| >= height or width): they contribute nothing, and the border need not reach them.
struct Window {
  int64_t reach_y, reach_x;  // positions on each side of the centre
  int64_t kernel_size, dilation;

  Window(int64_t height, int64_t width, int64_t kernel_size, int64_t dilation)
      : reach_y(reach(height, kernel_size, dilation)),
        reach_x(reach(width, kernel_size, dilation)),
        kernel_size(kernel_size),
        dilation(dilation) {}

  int64_t size() const { return (2 * reach_y + 1) * (2 * reach_x + 1); }

  // How many pairs of a pixel of the image and a position of its window lie inside the image.
  int64_t products(int64_t height, int64_t width) const {
    const auto along = [&](int64_t size, int64_t reach) {
      return (2 * reach + 1) * size - dilation * reach * (reach + 1);
    };
    return along(height, reach_y) * along(width, reach_x);
  }
  // How many pixels below and to the right of the centre a position is.
  int64_t tap_y(int64_t i) const { return (i / (2 * reach_x + 1) - reach_y) * dilation; }
  int64_t tap_x(int64_t i) const { return (i % (2 * reach_x + 1) - reach_x) * dilation; }

  // Index ky * k + kx of each position.
  std::vector<int64_t> taps() const {
    const int64_t radius = kernel_size / 2;
    std::vector<int64_t> result;
    for (int64_t y = radius - reach_y; y <= radius + reach_y; ++y)
      for (int64_t x = radius - reach_x; x <= radius + reach_x; ++x) result.push_back(y * kernel_size + x);
    return result;
  }
  // Its offset in pixels of a frame; `sign` -1 gives the window of the transposed convolution.
  std::vector<int64_t> offsets(const Grid& grid, int64_t sign) const {
    std::vector<int64_t> result;
    for (int64_t y = -reach_y; y <= reach_y; ++y)
      for (int64_t x = -reach_x; x <= reach_x; ++x) result.push_back(sign * dilation * (y * grid.pitch() + x));
    return result;
  }

 private:
  static int64_t reach(int64_t size, int64_t kernel_size, int64_t dilation) {
    const int64_t inside = (size - 1) / dilation, radius = kernel_size / 2;
    return inside < radius ? inside : radius;
  }
};

// How many window positions a tile of 2x2 pixels reads past its first pixel.
inline int64_t winograd_border(int64_t kernel_size) { return kernel_size / 2 + 1; }
// Where the parts of a window lie (WinogradConvolution::shifts).
inline std::vector<int64_t> winograd_shifts(const Grid& grid, int64_t kernel_size, int64_t dilation) {
  std::vector<int64_t> shifts;
  const WinogradParts parts = WinogradParts::of(kernel_size);
  const auto shift = [&](int64_t part) { return dilation * (parts.first_tap(part) + 1 - kernel_size / 2); };
  for (int64_t y = 0; y < parts.side; ++y)
    for (int64_t x = 0; x < parts.side; ++x) shifts.push_back(shift(y) * grid.pitch() + shift(x));
  return shifts;
}

}  // namespace pdb::cpu
