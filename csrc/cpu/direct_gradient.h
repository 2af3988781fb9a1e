// The weights' gradients of the direct convolution. A unit of work is some blocks of rows and some channels: few enough
// that their filters, of all taps, stay in the second-level cache while the pixels of a step pass by.
#pragma once

#include "cpu/plan.h"

namespace pdb::cpu {

template <class T>
class DirectGradient {
 public:
  // Of `rows` rows of gates from `first` on, to `weights`, which begin there.
  DirectGradient(const Plan<T>& plan, int64_t first, int64_t rows, const WeightPair<T>& weights)
      : plan_(plan),
        first_(first),
        row_block_(plan.kernel.row_block),
        blocks_(plan.padded(rows) / row_block_),
        filter_(weights.area * row_block_),
        weights_(weights),
        form_(plan.packed(rows, plan.inputs(), /*in_winograd_form=*/false, /*transposed=*/false)),
        rows_a_chunk_(std::max<int64_t>(1, kChunkPixels / plan.grid.width)) {
    constexpr int64_t kValues = (1 << 18) / sizeof(T);  // of a unit's filters: 256 KB, half of a small cache
    constexpr int64_t kTile = 8;                        // about the channels that the kernel sums at once
    channels_a_unit_ = std::clamp(kValues / filter_ / kTile * kTile, kTile, round_up(plan.inputs(), kTile));
    blocks_a_unit_ = std::clamp<int64_t>(kValues / (filter_ * channels_a_unit_), 1, blocks_);
    while (units() < plan.threads.count && blocks_a_unit_ > 1) blocks_a_unit_ = (blocks_a_unit_ + 1) / 2;
    while (units() < plan.threads.count && channels_a_unit_ > 1) channels_a_unit_ = (channels_a_unit_ + 1) / 2;
    if (plan.layer.steps > 1) total_ = Buffer<T>(blocks_ * plan.inputs() * filter_);
  }

  // Adds one step of `channels` channels of inputs, the others being zero. first: it is the first to be added.
  void add(bool first, int64_t channels, const Buffer<T>& inputs, const Buffer<T>& dgates) const {
    const int64_t filters = blocks_a_unit_ * channels_a_unit_ * plan_.window.size();
    const int64_t work = plan_.layer.batch * plan_.grid.pixels() * row_block_ * filters;
    plan_.parallel(units(), work, [&](int64_t begin, int64_t end) {
      const int64_t size = blocks_a_unit_ * channels_a_unit_ * filter_;
      const Buffer<T> buffer(size + rows_a_chunk_ * plan_.grid.pitch() * row_block_);
      for (int64_t unit = begin; unit < end; ++unit) {
        std::fill_n(buffer.data(), size, T(0));
        sum_up(unit, channels, inputs, dgates, buffer.data(), buffer.data() + size);
        for_each_block(unit, [&](int64_t i, int64_t block, int64_t channel, int64_t count) {
          keep(first, buffer.data() + i * channels_a_unit_ * filter_, block, channel, count);
        });
      }
    });
  }

  // Writes the gradients, after the last step.
  void finish() const {
    if (!total_) return;
    plan_.parallel(blocks_, plan_.inputs() * filter_, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        form_.store(total_.data() + block * plan_.inputs() * filter_, block, 0, plan_.inputs(), weights_);
    });
  }

 private:
  static constexpr int64_t kChunkPixels = 64;  // their gradients, of a row block, stay in the nearest cache

  int64_t chunks() const { return (plan_.inputs() + channels_a_unit_ - 1) / channels_a_unit_; }
  int64_t units() const { return (blocks_ + blocks_a_unit_ - 1) / blocks_a_unit_ * chunks(); }

  // Calls body(i, block, first channel, count) for the i-th row block of a unit.
  template <class Body>
  void for_each_block(int64_t unit, const Body& body) const {
    const int64_t first = unit / chunks() * blocks_a_unit_, channel = unit % chunks() * channels_a_unit_;
    for (int64_t i = 0; i < std::min(blocks_a_unit_, blocks_ - first); ++i)
      body(i, first + i, channel, std::min(channels_a_unit_, plan_.inputs() - channel));
  }

  // Adds one step to filters, [blocks_a_unit_][channels_a_unit_][taps][row_block]. slice: memory for the gradients of
  // one chunk of pixels.
  void sum_up(int64_t unit, int64_t channels, const Buffer<T>& inputs, const Buffer<T>& dgates, T* filters,
              T* slice) const {
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      for (int64_t y = 0; y < plan_.grid.height; y += rows_a_chunk_)
        for_each_block(unit, [&](int64_t i, int64_t block, int64_t channel, int64_t count) {
          const int64_t present = std::min(count, channels - channel),
                        end = std::min(plan_.grid.height, y + rows_a_chunk_);
          if (present <= 0) return;
          load_slice(n, y, end, block, dgates, slice);
          const Source<T> source{plan_.frame(inputs, n, plan_.inputs()) + channel, plan_.inputs(), present};
          for (int64_t tap = 0; tap < plan_.window.size(); ++tap)
            add_tap(tap, y, end, source, slice,
                    filters + i * channels_a_unit_ * filter_ + form_.taps[tap] * row_block_);
        });
  }

  // The gradients of rows [y, end) of an image for one row block, behind each other: in the frame, powers of two apart,
  // they would displace each other from the cache.
  void load_slice(int64_t n, int64_t y, int64_t end, int64_t block, const Buffer<T>& dgates, T* slice) const {
    const Grid& grid = plan_.grid;
    const T* from = plan_.frame(dgates, n, plan_.gates()) + first_ + block * row_block_;
    for (int64_t row = y; row < end; ++row)
      for (int64_t x = 0; x < grid.width; ++x)
        std::copy_n(from + grid.position(row, x) * plan_.gates(), row_block_,
                    slice + ((row - y) * grid.pitch() + x) * row_block_);
  }

  // Over those pixels of rows [y, end) whose tap lies inside the image.
  void add_tap(int64_t tap, int64_t y, int64_t end, const Source<T>& source, const T* slice, T* filters) const {
    const Grid& grid = plan_.grid;
    const int64_t dy = plan_.window.tap_y(tap), dx = plan_.window.tap_x(tap), left = std::max<int64_t>(0, -dx);
    const int64_t top = std::max(y, -dy), bottom = std::min(end, grid.height - dy);
    if (top >= bottom) return;
    plan_.kernel.weight_gradient(
        {source.frame + grid.position(top + dy, left + dx) * source.stride, source.stride, source.channels},
        slice + ((top - y) * grid.pitch() + left) * row_block_, row_block_, grid.width - std::abs(dx), bottom - top,
        grid.pitch(), filters, filter_);
  }

  // Filters of a step to the total; of the only step to the weights, while they are in the cache.
  void keep(bool first, const T* filters, int64_t block, int64_t channel, int64_t count) const {
    if (!total_) return form_.store(filters, block, channel, count, weights_);
    T* to = total_.data() + (block * plan_.inputs() + channel) * filter_;
    if (first) return static_cast<void>(std::copy_n(filters, count * filter_, to));
    for (int64_t i = 0; i < count * filter_; ++i) to[i] += filters[i];
  }

  const Plan<T>& plan_;
  const int64_t first_, row_block_, blocks_, filter_;  // filter_: values of all taps of a channel and row block
  const WeightPair<T> weights_;
  const PackedWeight<T> form_;
  const int64_t rows_a_chunk_;
  int64_t channels_a_unit_, blocks_a_unit_;
  Buffer<T> total_;  // [blocks][channels][taps][row_block], where there are several steps
};

}  // namespace pdb::cpu
