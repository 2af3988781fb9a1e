// What forward and backward of the CPU implementation share: sizes, packed weights, buffers and the loop over strips.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "convlstm.h"
#include "cpu/kernels.h"
#include "cpu/layout.h"

namespace pdb::cpu {

template <class T>
struct Layer {
  Sizes s;
  Window window;
  const Kernels<T>& kernel;
  at::TensorOptions options;

  Layer(const Sizes& sizes, const at::Tensor& x)
      : s(sizes),
        window(sizes.height, sizes.width, sizes.kernel_size, sizes.dilation),
        kernel(kernels<T>()),
        options(x.options().requires_grad(false)) {}

  const Grid& grid() const { return window.grid; }
  int64_t gates() const { return 4 * s.channels; }
  int64_t strips() const { return (grid().pixels() + kStripPixels - 1) / kStripPixels; }
  int64_t strip_pixels(int64_t first) const { return std::min(kStripPixels, grid().pixels() - first); }
  int64_t padded(int64_t rows) const { return round_up(rows, kernel.row_block); }
  // Frame t of the sequence at step `step` of the recurrence.
  int64_t frame(int64_t step, bool reverse) const { return reverse ? s.steps - 1 - step : step; }

  // Units that one thread should take at least, so that waking it pays: `work` is a unit's number of multiplications.
  static int64_t grain(int64_t work) { return std::max<int64_t>(1, 100'000 / std::max<int64_t>(1, work)); }
  int64_t convolution_grain() const {
    return grain(kStripPixels * window.size() * gates() * (s.in_channels + s.channels));
  }

  at::Tensor buffer(int64_t size) const { return at::empty({size}, options); }
  // Zeroed once: the kernels write the pictures and never the borders. One row block more than the pixels, because
  // Kernels::weight_gradient reads past the last row.
  at::Tensor frames(int64_t channels) const {
    return at::zeros({s.batch * grid().frame_pixels() * channels + kMaxRowBlock}, options);
  }

  // Picture n of (N, channels, H, W), of any strides. V is T or const T.
  template <class V>
  static Picture<V> picture(const at::Tensor& pictures, int64_t n) {
    return {pictures.data_ptr<T>() + n * pictures.stride(0), pictures.stride(1), pictures.stride(2), pictures.stride(3)};
  }

  // (N, channels, H, W) of any strides into frames.
  void to_frames(const at::Tensor& pictures, int64_t channels, const at::Tensor& frames) const {
    T* to = frames.data_ptr<T>();
    at::parallel_for(0, s.batch * grid().height, grain(4 * grid().width * channels), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / grid().height;
        picture_row_to_frame(picture<const T>(pictures, n), channels, grid(), unit % grid().height, to + n * grid().frame_pixels() * channels);
      }
    });
  }

  // The first `pixels` frame positions from picture pixel `first` on.
  void centers(const T* frame, int64_t channels, int64_t first, int64_t pixels, const T** result) const {
    for (int64_t p = 0; p < pixels; ++p) result[p] = frame + grid().frame_pixel(first + p) * channels;
  }
};

// The weight of a convolution packed for the kernels, and the description that they take.
template <class T>
struct PackedConvolution {
  at::Tensor packed;
  Convolution<T> convolution;

  // Gates from pixels: rows are weight's dimension 0.
  static PackedConvolution forward(const Layer<T>& layer, const at::Tensor& weight) {
    const int64_t area = layer.s.kernel_size * layer.s.kernel_size, channels = weight.size(1);
    return PackedConvolution(layer, weight, weight.size(0), channels * area, channels, area, layer.window.offsets);
  }
  // Gradients of pixels from gradients of gates: rows are weight's dimension 1, the window is mirrored.
  static PackedConvolution transposed(const Layer<T>& layer, const at::Tensor& weight) {
    const int64_t area = layer.s.kernel_size * layer.s.kernel_size, rows = weight.size(1);
    return PackedConvolution(layer, weight, rows, area, weight.size(0), rows * area, layer.window.mirrored);
  }

 private:
  PackedConvolution(const Layer<T>& layer, const at::Tensor& weight, int64_t rows, int64_t row_stride, int64_t channels,
                    int64_t channel_stride, const std::vector<int64_t>& offsets)
      : packed(layer.buffer(layer.padded(rows) * layer.window.size() * channels)),
        convolution{packed.data_ptr<T>(), offsets.data(), layer.window.size(), channels, layer.padded(rows)} {
    pack_weight(weight.contiguous().data_ptr<T>(), rows, row_stride, channels, channel_stride, layer.window.taps,
                layer.kernel.row_block, packed.data_ptr<T>());
  }
};

// A copy of a state (N, C, H, W), pixel-major: [N][pixels][C]; and back.
template <class T>
at::Tensor state_to_pixels(const Layer<T>& layer, const at::Tensor& state) {
  const Sizes& s = layer.s;
  return state.permute({0, 2, 3, 1}).clone(at::MemoryFormat::Contiguous).view({s.batch * s.height * s.width * s.channels});
}
template <class T>
at::Tensor state_from_pixels(const Layer<T>& layer, const at::Tensor& pixels) {
  const Sizes& s = layer.s;
  return pixels.view({s.batch, s.height, s.width, s.channels}).permute({0, 3, 1, 2}).clone(at::MemoryFormat::Contiguous);
}

// The peephole (3, C, H, W) pixel-major: [3][pixels][C]; undefined if there is none.
inline at::Tensor peephole_to_pixels(const OptionalTensor& peephole) {
  return peephole ? peephole->permute({0, 2, 3, 1}).contiguous() : at::Tensor();
}

template <class T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

}  // namespace pdb::cpu
