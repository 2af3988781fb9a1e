// A convolution of all images, with its weight packed for the kernels, and what follows it strip by strip. In the form
// that the plan chose: direct or Winograd's, whose strips are convolved one by one, so that the sums are still in the
// cache for what follows; or, where few pixels share a weight, by rows: then every thread reads a part of the weight
// once for all pixels, and leaves out the taps that lie outside the image.
#pragma once

#include <memory>

#include "cpu/packed_weight.h"
#include "cpu/plan.h"

namespace pdb::cpu {

template <class T>
class StripConvolution {
 public:
  // Gates from pixels: `rows` rows.
  static StripConvolution forward(const Plan<T>& plan, const WeightPair<const T>& weights, int64_t rows) {
    return {plan, weights, rows, weights.channels(), false};
  }
  // Gradients of pixels from gradients of gates, of which there are `channels`.
  static StripConvolution transposed(const Plan<T>& plan, const WeightPair<const T>& weights, int64_t channels) {
    return {plan, weights, weights.channels(), channels, true};
  }

  int64_t rows() const { return rows_; }  // those computed

  // Frames of `stride` channels, of which it reads `channels` from `first` on.
  struct Input {
    const Buffer<T>& frames;
    int64_t stride, first, channels;
  };

  // Calls body(n, strip, sums) for every strip of every image, in parallel: sums [slot][rows], the first `rows` row
  // sums, a multiple of half a row block, plus init. They belong to body, which may overwrite them.
  template <class Body>
  void run(const Input& input, const T* init, int64_t rows, const Body& body) const {
    const Strips& strips = plan_.strips;
    if (tapped_) convolve_rows(input, init, rows);
    const int64_t work = kStripSlots / 2 * rows * (tapped_ ? 32 : plan_.window.size() * input.channels);
    plan_.parallel(plan_.layer.batch * strips.size(), work, [&](int64_t begin, int64_t end) {
      const Buffer<T> buffer(tapped_ ? 0 : kStripSlots * rows + scratch());
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / strips.size(), strip = unit % strips.size();
        if (!tapped_)
          convolve_strip(strip, source(input, n), init, buffer.data() + kStripSlots * rows, buffer.data(), rows);
        body(n, strip,
             tapped_ ? sums_.data() + (n * plan_.grid.pixels() + strips.pixel[strips.begin[strip]]) * rows
                     : buffer.data());
      }
    });
  }
  template <class Body>
  void run(const Input& input, const T* init, const Body& body) const {
    run(input, init, rows_, body);
  }

 private:
  StripConvolution(const Plan<T>& plan, const WeightPair<const T>& weights, int64_t rows, int64_t channels,
                   bool transposed)
      : plan_(plan),
        channels_(channels),
        rows_(plan.computed(rows)),
        offsets_(plan.winograd ? winograd_shifts(plan.grid, plan.layer.kernel, plan.layer.dilation)
                               : plan.window.offsets(plan.grid, transposed ? -1 : 1)),
        packed_(packed_weight(plan, weights, rows, channels, transposed)) {
    if (!plan.by_rows) return;
    tapped_ = std::make_unique<const TappedPixels>(plan.grid, plan.window, transposed ? -1 : 1);
    sums_ = Buffer<T>(plan.layer.batch * plan.grid.pixels() * rows_);
  }

  Source<T> source(const Input& input, int64_t n) const {
    return {plan_.frame(input.frames, n, input.stride) + input.first, input.stride, input.channels};
  }

  int64_t scratch() const {
    return plan_.winograd ? winograd_scratch(WinogradParts::of(plan_.layer.kernel).count() * channels_) : 0;
  }
  void convolve_strip(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out, int64_t rows) const {
    const Strips& strips = plan_.strips;
    if (plan_.winograd) {
      const int64_t step = plan_.layer.dilation;
      plan_.kernel.winograd({packed_.get(), channels_, rows, step * plan_.grid.pitch(), step,
                             WinogradParts::of(plan_.layer.kernel), offsets_.data()},
                            source, strips.corners(strip), strips.tiles(strip), init, scratch, out);
    } else {
      plan_.kernel.convolve({packed_.get(), offsets_.data(), plan_.window.size(), channels_, rows}, source,
                            strips.position.data() + strips.begin[strip], strips.pixels(strip), init, out);
    }
  }

  // All sums, [N][pixels][rows]. A unit is a row block of some of the pixels: of all if there are blocks enough.
  void convolve_rows(const Input& input, const T* init, int64_t rows) const {
    const int64_t block = plan_.kernel.row_block, blocks = (rows + block - 1) / block;
    const int64_t pixels = plan_.layer.batch * plan_.grid.pixels();
    const int64_t pieces = std::min(pixels, (2 * plan_.threads.count + blocks - 1) / blocks);
    const int64_t work = pixels / pieces * plan_.window.size() * input.channels * block / 2;
    plan_.parallel(blocks * pieces, work, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = unit / pieces * block, piece = unit % pieces;
        convolve_pixels(input, init, rows, row, piece * pixels / pieces, (piece + 1) * pixels / pieces);
      }
    });
  }
  // The row block from `row` on, at the pixels [first, last) of all images together.
  void convolve_pixels(const Input& input, const T* init, int64_t rows, int64_t row, int64_t first,
                       int64_t last) const {
    const int64_t pixels = plan_.grid.pixels(), block = plan_.kernel.row_block, left = std::min(block, rows - row);
    for (int64_t pixel = first; pixel < last; ++pixel) std::copy_n(init + row, left, sums_.data() + pixel * rows + row);
    const T* weight = packed_.get() + row * plan_.window.size() * channels_;
    for (int64_t tap = 0; tap < plan_.window.size(); ++tap, weight += channels_ * block)
      for (int64_t n = first / pixels; n * pixels < last; ++n)
        tapped_->among(tap, first - n * pixels, last - n * pixels, [&](int64_t entry, int64_t count) {
          plan_.kernel.convolve_tap(weight, source(input, n), tapped_->position.data() + entry,
                                    tapped_->pixel.data() + entry, count, left, sums_.data() + n * pixels * rows + row,
                                    rows);
        });
  }

  const Plan<T>& plan_;
  int64_t channels_, rows_;
  std::vector<int64_t> offsets_;  // of the taps, or of the parts
  std::shared_ptr<const T> packed_;
  // By rows only. run() writes the sums: one at a time.
  std::unique_ptr<const TappedPixels> tapped_;
  Buffer<T> sums_;  // [N][pixels][rows], of one step
};

}  // namespace pdb::cpu
