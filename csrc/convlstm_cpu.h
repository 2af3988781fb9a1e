// What forward and backward of the CPU implementation share. x_t and h_{t-1} lie side by side in one frame of Cin + C
// channels, so that one dilated convolution with the weight cat(weight_x, weight_h) gives all four gates.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "convlstm.h"
#include "cpu/kernels.h"
#include "cpu/strips.h"
#include "cpu/winograd.h"

namespace pdb::cpu {

// Whether the 3x3 convolutions of a layer take Winograd's form. It needs 2.25 times fewer multiplications and some
// additions a channel. With few channels these do not pay, and the sums are so short that the additions' rounding shows;
// nor does it pay where the tiles mostly hang over the edge.
inline bool use_winograd(const Sizes& s) {
  const auto covered = [&](int64_t size) { return round_up(size, 2 * s.dilation); };
  return s.kernel_size == 3 && s.channels >= 16 && s.in_channels + s.channels >= 32 &&
         covered(s.height) * covered(s.width) * 4 <= s.height * s.width * 5;
}

template <class T>
struct Layer {
  Sizes s;
  bool winograd;
  Window window;
  Grid grid;
  Strips strips;
  const Kernels<T>& kernel;
  at::TensorOptions options;

  Layer(const Sizes& sizes, const at::Tensor& x)
      : s(sizes),
        winograd(use_winograd(sizes)),
        window(sizes.height, sizes.width, sizes.kernel_size, sizes.dilation),
        grid{sizes.height, sizes.width, (winograd ? 2 : window.reach_y) * sizes.dilation,
             (winograd ? 2 : window.reach_x) * sizes.dilation},
        strips(winograd ? Strips::tiled(grid, sizes.dilation) : Strips::rows(grid)),
        kernel(kernels<T>()),
        options(x.options().requires_grad(false)) {}

  int64_t gates() const { return 4 * s.channels; }
  int64_t inputs() const { return s.in_channels + s.channels; }
  int64_t state() const { return grid.pixels() * s.channels; }  // values of one picture's h or c
  int64_t padded(int64_t rows) const { return round_up(rows, kernel.row_block); }
  // Frame t of the sequence at step `step` of the recurrence.
  int64_t time(int64_t step, bool reverse) const { return reverse ? s.steps - 1 - step : step; }

  // Units that one thread should take at least, so that waking it pays: `work` is a unit's number of multiplications.
  static int64_t grain(int64_t work) { return std::max<int64_t>(1, 100'000 / std::max<int64_t>(1, work)); }
  int64_t convolution_grain() const { return grain(kStripSlots * window.size() * gates() * inputs() / 2); }

  at::Tensor buffer(int64_t size) const { return at::empty({size}, options); }
  // Zeroed once: the kernels write the pictures and never the borders. One row block more than the pixels, because the
  // gradient kernels read past the last row.
  at::Tensor frames(int64_t channels) const {
    return at::zeros({s.batch * grid.frame_pixels() * channels + kMaxRowBlock}, options);
  }
  T* frame(const at::Tensor& frames, int64_t n, int64_t channels) const {
    return frames.data_ptr<T>() + n * grid.frame_pixels() * channels;
  }

  // (N, channels, H, W) of any strides into frames of inputs() channels, from channel `first` on.
  void to_frames(const at::Tensor& pictures, int64_t first, const at::Tensor& frames) const {
    const int64_t channels = pictures.size(1);
    at::parallel_for(0, s.batch * grid.height, grain(4 * grid.width * channels), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / grid.height;
        const Picture<const T> from{pictures.data_ptr<T>() + n * pictures.stride(0), pictures.stride(1), pictures.stride(2),
                                    pictures.stride(3)};
        picture_row_to_frame(from, channels, grid, unit % grid.height, inputs(), frame(frames, n, inputs()) + first);
      }
    });
  }

  // The strip's values [entry][stride] into the picture n of (N, channels, H, W), and back.
  void to_picture(const T* values, int64_t stride, int64_t strip, const at::Tensor& pictures, int64_t n) const {
    for_each_pixel(strip, pictures, n, [&](int64_t entry, T* pixel, int64_t channel_stride) {
      for (int64_t c = 0; c < pictures.size(1); ++c) pixel[c * channel_stride] = values[entry * stride + c];
    });
  }
  void from_picture(const at::Tensor& pictures, int64_t n, int64_t strip, int64_t stride, T* values) const {
    for_each_pixel(strip, pictures, n, [&](int64_t entry, const T* pixel, int64_t channel_stride) {
      for (int64_t c = 0; c < pictures.size(1); ++c) values[entry * stride + c] = pixel[c * channel_stride];
    });
  }

 private:
  template <class Body>
  void for_each_pixel(int64_t strip, const at::Tensor& pictures, int64_t n, Body body) const {
    T* first = pictures.data_ptr<T>() + n * pictures.stride(0);
    const int64_t row = pictures.stride(2), column = pictures.stride(3), channel = pictures.stride(1);
    for (int64_t entry = 0; entry < strips.pixels(strip); ++entry) {
      const int64_t pixel = strips.pixel[strips.begin[strip] + entry];
      body(entry, first + pixel / grid.width * row + pixel % grid.width * column, channel);
    }
  }
};

// A convolution with its weight packed for the kernels, in the form that the layer chose.
template <class T>
class StripConvolution {
 public:
  // Gates from pixels: rows are weight's dimension 0.
  static StripConvolution forward(const Layer<T>& layer, const at::Tensor& weight) {
    const int64_t area = layer.window.kernel_size * layer.window.kernel_size;
    return {layer, weight, {weight.size(1) * area, area}, weight.size(0), weight.size(1), false};
  }
  // Gradients of pixels from gradients of gates: rows are weight's dimension 1, the window is mirrored.
  static StripConvolution transposed(const Layer<T>& layer, const at::Tensor& weight) {
    const int64_t area = layer.window.kernel_size * layer.window.kernel_size;
    return {layer, weight, {area, weight.size(1) * area}, weight.size(1), weight.size(0), true};
  }

  int64_t rows() const { return direct_.rows; }  // padded
  int64_t scratch() const { return layer_.winograd ? winograd_scratch(direct_.channels) : 0; }

  // out [kStripSlots][rows()]: row sums plus init at the slots of a strip.
  void run(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out) const {
    const Strips& strips = layer_.strips;
    if (layer_.winograd) {
      const int64_t* corners = strips.corner.data() + strip * kStripTiles;
      layer_.kernel.winograd(winograd_, source, corners, strips.tiles(strip), init, scratch, out);
    } else {
      const int64_t* centers = strips.position.data() + strips.begin[strip];
      layer_.kernel.convolve(direct_, source, centers, strips.pixels(strip), init, out);
    }
  }

 private:
  StripConvolution(const Layer<T>& layer, const at::Tensor& weight, FilterStrides strides, int64_t rows, int64_t channels,
                   bool mirrored)
      : layer_(layer), offsets_(layer.window.offsets(layer.grid, mirrored ? -1 : 1)) {
    const int64_t padded = layer.padded(rows), block = layer.kernel.row_block, step = layer.s.dilation;
    packed_ = layer.buffer(padded * channels * (layer.winograd ? 16 : layer.window.size()));
    T* packed = packed_.template data_ptr<T>();
    const at::Tensor contiguous = weight.contiguous();
    const T* from = contiguous.data_ptr<T>();
    direct_ = {packed, offsets_.data(), layer.window.size(), channels, padded};
    winograd_ = {packed, channels, padded, step * layer.grid.pitch(), step};
    if (!layer.winograd) {
      pack_weight(from, strides, rows, channels, layer.window.taps(), block, packed);
      return;
    }
    at::parallel_for(0, padded / block, layer.grain(block * channels * 16), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        pack_winograd_block(from, strides, mirrored, i * block, rows, channels, block, packed + i * 16 * channels * block);
    });
  }

  const Layer<T>& layer_;
  std::vector<int64_t> offsets_;
  at::Tensor packed_;
  Convolution<T> direct_;
  WinogradConvolution<T> winograd_;
};

// A copy of a state (N, C, H, W), pixel-major: [N][pixels][C]; and back.
inline at::Tensor to_pixels(const at::Tensor& state) {
  return state.permute({0, 2, 3, 1}).clone(at::MemoryFormat::Contiguous).view({-1});
}
inline at::Tensor from_pixels(const Sizes& s, const at::Tensor& pixels) {
  return pixels.view({s.batch, s.height, s.width, s.channels}).permute({0, 3, 1, 2}).clone(at::MemoryFormat::Contiguous);
}

template <class T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

}  // namespace pdb::cpu
