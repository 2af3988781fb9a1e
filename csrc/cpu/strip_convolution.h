// A convolution with its weight packed for the kernels, in the form that the plan chose: direct or Winograd's.
#pragma once

#include "cpu/plan.h"
#include "cpu/winograd.h"

namespace pdb::cpu {

template <class T>
class StripConvolution {
 public:
  // Gates from pixels: the rows are the weight's dimension 0, the window is not mirrored.
  static StripConvolution forward(const Plan<T>& plan, const T* weight, int64_t rows, int64_t channels) {
    const int64_t area = plan.layer.taps();
    return {plan, weight, {channels * area, area}, rows, channels, false};
  }
  // Gradients of pixels from gradients of gates, weight (channels, rows, k, k): the window is mirrored.
  static StripConvolution transposed(const Plan<T>& plan, const T* weight, int64_t rows, int64_t channels) {
    const int64_t area = plan.layer.taps();
    return {plan, weight, {area, rows * area}, rows, channels, true};
  }

  int64_t rows() const { return rows_; }  // padded
  void run(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out) const {
    run(strip, source, init, scratch, out, rows_);
  }
  int64_t scratch() const { return plan_.winograd ? winograd_scratch(channels_) : 0; }

  // out [kStripSlots][rows]: the first `rows` row sums, a multiple of the row block, plus init at the slots of a strip.
  void run(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out, int64_t rows) const {
    const Strips& strips = plan_.strips;
    if (plan_.winograd) {
      const int64_t step = plan_.layer.dilation;
      plan_.kernel.winograd({packed_.data(), channels_, rows, step * plan_.grid.pitch(), step}, source,
                            strips.corner.data() + strip * kStripTiles, strips.tiles(strip), init, scratch, out);
    } else {
      plan_.kernel.convolve({packed_.data(), offsets_.data(), plan_.window.size(), channels_, rows}, source,
                            strips.position.data() + strips.begin[strip], strips.pixels(strip), init, out);
    }
  }

 private:
  StripConvolution(const Plan<T>& plan, const T* weight, FilterStrides strides, int64_t rows, int64_t channels,
                   bool mirrored)
      : plan_(plan),
        channels_(channels),
        rows_(plan.padded(rows)),
        offsets_(plan.window.offsets(plan.grid, mirrored ? -1 : 1)),
        packed_(rows_ * channels * (plan.winograd ? 16 : plan.window.size())) {
    const int64_t block = plan.kernel.row_block;
    if (!plan.winograd) {
      pack_weight(weight, strides, rows, channels, plan.window.taps(), block, packed_.data());
      return;
    }
    plan.parallel(rows_ / block, block * channels * 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        pack_winograd_block(weight, strides, mirrored, i * block, rows, channels, block,
                            packed_.data() + i * 16 * channels * block);
    });
  }

  const Plan<T>& plan_;
  int64_t channels_, rows_;
  std::vector<int64_t> offsets_;
  Buffer<T> packed_;
};

// cat((weight_x, weight_h), dim=1) of weights with `rows` rows: (rows, Cin + C, k, k), for x and h side by side.
template <class T>
Buffer<T> join_weights(const Plan<T>& plan, const T* weight_x, const T* weight_h, int64_t rows) {
  const int64_t area = plan.layer.taps();
  const int64_t x = plan.layer.in_channels * area, h = plan.layer.channels * area;
  Buffer<T> joined(rows * (x + h));
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(weight_x + row * x, x, joined.data() + row * (x + h));
    std::copy_n(weight_h + row * h, h, joined.data() + row * (x + h) + x);
  }
  return joined;
}

}  // namespace pdb::cpu
