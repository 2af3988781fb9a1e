// Gradients of weight_x, weight_h and bias, summed over the steps. A unit of work owns the values it adds to and visits
// pixels in one order, whichever thread runs it. Each step is summed by itself before it is added to the others, so
// that rounding errors do not grow with sequence length times image size.
#pragma once

#include "cpu/plan.h"

namespace pdb::cpu {

template <class T>
class WeightGradient {
 public:
  // Of the `rows` rows of gates from `first` on.
  WeightGradient(const Plan<T>& plan, int64_t first, int64_t rows, bool needs_weights, bool needs_bias)
      : plan_(plan),
        first_(first),
        rows_(rows),
        winograd_(plan.winograd_gradient()),
        parts_(WinogradParts::of(plan.layer.kernel)),
        offsets_(winograd_ ? winograd_shifts(plan.grid, plan.layer.kernel, plan.layer.dilation)
                           : plan.window.offsets(plan.grid, 1)),
        blocks_(plan.padded(rows) / plan.kernel.row_block) {
    if (needs_weights) {
      const int64_t positions = winograd_ ? parts_.size() : plan.window.size();
      size_ = plan.padded(rows) * positions * plan.inputs();
      total_ = Buffer<T>(size_);
      if (plan.layer.steps > 1) step_ = Buffer<T>(size_);
      // Winograd: a unit is one of 4 lines of positions and some row blocks: many, so that the source is transformed
      // few times, yet few enough that every thread has a unit.
      const int64_t threads = std::max(4, 2 * plan.threads.count);
      blocks_a_unit_ = winograd_ ? std::max<int64_t>(1, blocks_ * 4 / threads) : 1;
      weight_units_ = (winograd_ ? 4 : positions) * ((blocks_ + blocks_a_unit_ - 1) / blocks_a_unit_);
    }
    if (needs_bias) bias_ = Buffer<T>::zeros(plan.padded(rows));
  }

  // Adds one step: the frames of its inputs (without h if it is zero), read only for the weights, and those of all
  // gates' gradients. first: whether it is the first to be added.
  void add(bool first, bool has_h, const Buffer<T>& inputs, const Buffer<T>& dgates) const {
    const Layer& layer = plan_.layer;
    const int64_t channels = has_h ? plan_.inputs() : layer.in_channels;
    const int64_t work = layer.batch * plan_.grid.pixels() * plan_.kernel.row_block * layer.channels;
    // Two loops: in one, one thread would get all units of the bias and another all those of the weights.
    plan_.parallel(weight_units_, work, [&](int64_t begin, int64_t end) {
      const Buffer<T> scratch(winograd_ ? winograd_gradient_scratch(plan_.inputs(), blocks_a_unit_) : 0);
      for (int64_t unit = begin; unit < end; ++unit) add_weights(first, unit, channels, inputs, dgates, scratch.data());
    });
    plan_.parallel(bias_ ? blocks_ : 0, work / layer.channels, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) add_bias(block, dgates);
    });
  }

  // The rows' part of the gradients of all gates' weight_x, weight_h and bias; each may be null.
  void result(T* weight_x, T* weight_h, T* bias) const {
    if (bias) std::copy_n(bias_.data(), rows_, bias + first_);
    if (!total_) return;
    const WeightPair<T> weights = plan_.weights(weight_x, weight_h, first_);
    const PackedWeight<T> form{plan_.kernel,         rows_,
                               plan_.inputs(),       winograd_,
                               /*transposed=*/false, plan_.layer.kernel,
                               plan_.window.taps()};
    plan_.parallel(blocks_, form.block_size(), [&](int64_t begin, int64_t end) {
      const Buffer<T> filters(form.filters_size(weights.area));
      for (int64_t block = begin; block < end; ++block) form.unpack(total_.data(), block, filters.data(), weights);
    });
  }

 private:
  void add_weights(bool first, int64_t unit, int64_t channels, const Buffer<T>& inputs, const Buffer<T>& dgates,
                   T* scratch) const {
    T* sums = first ? total_.data() : step_.data();
    for_each_range(unit, [&](int64_t begin, int64_t size) { std::fill_n(sums + begin, size, T(0)); });
    if (winograd_)
      add_winograd(unit, channels, inputs, dgates, scratch, sums);
    else
      add_direct(unit, channels, inputs, dgates, sums);
    if (first) return;
    for_each_range(unit, [&](int64_t begin, int64_t size) {
      const T* from = sums + begin;
      T* to = total_.data() + begin;
      for (int64_t i = 0; i < size; ++i) to[i] += from[i];
    });
  }

  // Calls body(begin, size) for the ranges of values that a unit owns.
  template <class Body>
  void for_each_range(int64_t unit, Body body) const {
    const int64_t tap = plan_.inputs() * plan_.kernel.row_block;
    if (!winograd_) return body(unit * tap, tap);
    const int64_t first = unit / 4 * blocks_a_unit_, position = unit % 4 * 4;
    const int64_t begin = parts_.begin(position), size = parts_.begin(position + 4) - begin;
    for (int64_t i = first; i < std::min(first + blocks_a_unit_, blocks_); ++i)
      body((i * parts_.size() + begin) * tap, size * tap);
  }

  // Unit: one tap of the window and one row block.
  void add_direct(int64_t unit, int64_t channels, const Buffer<T>& frames, const Buffer<T>& dgates, T* sums) const {
    constexpr int64_t kChunkPixels = 256;  // stays in the second-level cache
    const Grid& grid = plan_.grid;
    const int64_t taps = plan_.window.size(), block = plan_.kernel.row_block, gates = plan_.gates(),
                  inputs = plan_.inputs();
    const int64_t chunk = std::max<int64_t>(1, kChunkPixels / grid.width);
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      for (int64_t y = 0; y < grid.height; y += chunk) {
        const int64_t position = grid.position(y, 0);
        const T* source = plan_.frame(frames, n, inputs) + (position + offsets_[unit % taps]) * inputs;
        const T* from = plan_.frame(dgates, n, gates) + position * gates + first_ + unit / taps * block;
        plan_.kernel.weight_gradient({source, inputs, channels}, from, gates, grid.width,
                                     std::min(chunk, grid.height - y), grid.pitch(), sums + unit * inputs * block);
      }
  }

  // Unit: one line of Winograd positions and some row blocks.
  void add_winograd(int64_t unit, int64_t channels, const Buffer<T>& frames, const Buffer<T>& dgates, T* scratch,
                    T* sums) const {
    const Strips& strips = plan_.strips;
    const int64_t first = unit / 4 * blocks_a_unit_, gates = plan_.gates(), inputs = plan_.inputs();
    const int64_t step = plan_.layer.dilation;
    const WinogradConvolution<T> convolution{nullptr, inputs, plan_.padded(rows_), step * plan_.grid.pitch(),
                                             step,    parts_, offsets_.data()};
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      plan_.kernel.winograd_weight_gradient(convolution, {plan_.frame(frames, n, inputs), inputs, channels},
                                            strips.corner.data(),
                                            {plan_.frame(dgates, n, gates) + first_, gates, rows_}, strips.first.data(),
                                            static_cast<int64_t>(strips.first.size()), static_cast<int>(unit % 4),
                                            first, std::min(blocks_a_unit_, blocks_ - first), scratch, sums);
  }

  void add_bias(int64_t block, const Buffer<T>& dgates) const {
    const int64_t row = block * plan_.kernel.row_block, gates = plan_.gates();
    T step[kMaxRowBlock] = {};
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      for (int64_t y = 0; y < plan_.grid.height; ++y)
        plan_.kernel.bias_gradient(plan_.frame(dgates, n, gates) + plan_.grid.position(y, 0) * gates + first_ + row,
                                   gates, plan_.grid.width, step);
    for (int64_t i = 0; i < plan_.kernel.row_block; ++i) bias_.data()[row + i] += step[i];
  }

  const Plan<T>& plan_;
  const int64_t first_, rows_;
  const bool winograd_;
  const WinogradParts parts_;
  std::vector<int64_t> offsets_;  // of the taps, or of the parts
  int64_t blocks_, blocks_a_unit_ = 1, weight_units_ = 0, size_ = 0;
  Buffer<T> bias_;
  Buffer<T> total_, step_;  // packed like the weights: of all steps so far, and of one that is not the first
};

}  // namespace pdb::cpu
