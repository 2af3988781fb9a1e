// A convolution with its weight packed for the kernels, in the form that the plan chose: direct or Winograd's.
#pragma once

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
  void run(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out) const {
    run(strip, source, init, scratch, out, rows_);
  }
  int64_t scratch() const { return plan_.winograd ? winograd_scratch(parts_.count() * channels_) : 0; }

  // out [kStripSlots][rows]: the first `rows` row sums, a multiple of half a row block, plus init at the slots of a
  // strip.
  void run(int64_t strip, const Source<T>& source, const T* init, T* scratch, T* out, int64_t rows) const {
    const Strips& strips = plan_.strips;
    if (plan_.winograd) {
      const int64_t step = plan_.layer.dilation;
      plan_.kernel.winograd({packed_.get(), channels_, rows, step * plan_.grid.pitch(), step, parts_, offsets_.data()},
                            source, strips.corners(strip), strips.tiles(strip), init, scratch, out);
    } else {
      plan_.kernel.convolve({packed_.get(), offsets_.data(), plan_.window.size(), channels_, rows}, source,
                            strips.position.data() + strips.begin[strip], strips.pixels(strip), init, out);
    }
  }

 private:
  StripConvolution(const Plan<T>& plan, const WeightPair<const T>& weights, int64_t rows, int64_t channels,
                   bool transposed)
      : plan_(plan),
        channels_(channels),
        rows_(plan.computed(rows)),
        parts_(WinogradParts::of(plan.layer.kernel)),
        offsets_(plan.winograd ? winograd_shifts(plan.grid, plan.layer.kernel, plan.layer.dilation)
                               : plan.window.offsets(plan.grid, transposed ? -1 : 1)),
        packed_(packed_weight(plan, weights, rows, channels, transposed)) {}

  const Plan<T>& plan_;
  int64_t channels_, rows_;
  WinogradParts parts_;
  std::vector<int64_t> offsets_;  // of the taps, or of the parts
  std::shared_ptr<const T> packed_;
};

}  // namespace pdb::cpu
