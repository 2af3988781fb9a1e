// Between PyTorch's tensors and the pixel-major layout of the kernels (kernels.h).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace pdb::cpu {

// One picture inside a tensor: channel c of pixel (y, x) lies at data[c * channel + y * row + x * column].
template <class T>
struct Picture {
  T* data;
  int64_t channel, row, column;
};

// The window of a k x k convolution with "same" padding over pictures of one size, without the positions that can only
// ever meet padding (|offset| >= height or width): they contribute nothing, and the border need not reach them.
struct Window {
  Grid grid;
  std::vector<int64_t> taps;      // index ky * k + kx of each kept position
  std::vector<int64_t> offsets;   // its offset in pixels of a frame
  std::vector<int64_t> mirrored;  // the negative offsets: the window of the transposed convolution

  Window(int64_t height, int64_t width, int64_t kernel_size, int64_t dilation) : grid{height, width, 0, 0} {
    const int64_t radius = kernel_size / 2;
    const auto reach = [&](int64_t size) {  // how many steps of `dilation` stay inside the picture
      const int64_t inside = (size - 1) / dilation;
      return inside < radius ? inside : radius;
    };
    const int64_t reach_y = reach(height), reach_x = reach(width);
    grid.pad_y = reach_y * dilation;
    grid.pad_x = reach_x * dilation;
    for (int64_t y = -reach_y; y <= reach_y; ++y) {
      for (int64_t x = -reach_x; x <= reach_x; ++x) {
        taps.push_back((y + radius) * kernel_size + x + radius);
        offsets.push_back((y * grid.pitch() + x) * dilation);
        mirrored.push_back(-offsets.back());
      }
    }
  }
  int64_t size() const { return static_cast<int64_t>(taps.size()); }
};

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// weight (element of row r, channel c, tap k at r * row_stride + c * channel_stride + k) to Convolution's layout.
template <class T>
void pack_weight(const T* weight, int64_t rows, int64_t row_stride, int64_t channels, int64_t channel_stride,
                 const std::vector<int64_t>& taps, int64_t row_block, T* packed) {
  for (int64_t block = 0; block < rows; block += row_block)
    for (const int64_t tap : taps)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t r = block; r < block + row_block; ++r)
          *packed++ = r < rows ? weight[r * row_stride + c * channel_stride + tap] : T(0);
}

// The inverse for a gradient; `weight` must be zero at the taps that the window left out.
template <class T>
void unpack_weight(const T* packed, int64_t rows, int64_t row_stride, int64_t channels, int64_t channel_stride,
                   const std::vector<int64_t>& taps, int64_t row_block, T* weight) {
  for (int64_t block = 0; block < rows; block += row_block)
    for (const int64_t tap : taps)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t r = block; r < block + row_block; ++r, ++packed)
          if (r < rows) weight[r * row_stride + c * channel_stride + tap] = *packed;
}

// Row y of a picture into a frame.
template <class T>
void picture_row_to_frame(const Picture<const T>& picture, int64_t channels, const Grid& grid, int64_t y, T* frame) {
  T* to = frame + grid.frame_pixel(y * grid.width) * channels;
  for (int64_t c = 0; c < channels; ++c) {
    const T* from = picture.data + c * picture.channel + y * picture.row;
    for (int64_t x = 0; x < grid.width; ++x) to[x * channels + c] = from[x * picture.column];
  }
}

// A strip of pixels between a picture and pixel-major values [pixels][stride].
template <class T>
void picture_to_strip(const Picture<const T>& picture, int64_t channels, const Grid& grid, int64_t first, int64_t pixels,
                      T* strip) {
  int64_t y = first / grid.width, x = first % grid.width;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const T* from = picture.data + y * picture.row + x * picture.column;
    for (int64_t c = 0; c < channels; ++c) strip[pixel * channels + c] = from[c * picture.channel];
    if (++x == grid.width) x = 0, ++y;
  }
}
template <class T>
void strip_to_picture(const T* strip, int64_t stride, int64_t channels, const Grid& grid, int64_t first, int64_t pixels,
                      const Picture<T>& picture) {
  int64_t y = first / grid.width, x = first % grid.width;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    T* to = picture.data + y * picture.row + x * picture.column;
    for (int64_t c = 0; c < channels; ++c) to[c * picture.channel] = strip[pixel * stride + c];
    if (++x == grid.width) x = 0, ++y;
  }
}

// A strip of pixel-major values into a frame.
template <class T>
void strip_to_frame(const T* strip, int64_t channels, const Grid& grid, int64_t first, int64_t pixels, T* frame) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    T* to = frame + grid.frame_pixel(first + pixel) * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = strip[pixel * channels + c];
  }
}

}  // namespace pdb::cpu
