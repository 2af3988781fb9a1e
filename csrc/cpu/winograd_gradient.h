// The weights' gradients of Winograd's form. A unit of work is one line of Winograd positions and some blocks of rows:
// many, so that the source is transformed few times, yet few enough that every thread has a unit. From 7x7 on the lines
// take so different times that each thread is to have all four of some blocks.
#pragma once

#include "cpu/plan.h"

namespace pdb::cpu {

template <class T>
class WinogradGradient {
 public:
  // Of `rows` rows of gates from `first` on, to `weights`, which begin there.
  WinogradGradient(const Plan<T>& plan, int64_t first, int64_t rows, const WeightPair<T>& weights)
      : plan_(plan),
        first_(first),
        rows_(rows),
        blocks_(plan.padded(rows) / plan.kernel.row_block),
        blocks_a_unit_(
            std::max<int64_t>(1, blocks_ * 4 / std::max(4, (plan.layer.kernel < 7 ? 2 : 4) * plan.threads.count))),
        parts_(WinogradParts::of(plan.layer.kernel)),
        shifts_(winograd_shifts(plan.grid, plan.layer.kernel, plan.layer.dilation)),
        weights_(weights),
        form_(plan.packed(rows, plan.inputs(), /*in_winograd_form=*/true, /*transposed=*/false)),
        total_(blocks_ * form_.block_size()) {
    if (plan.layer.steps > 1) step_ = Buffer<T>(blocks_ * form_.block_size());
  }

  // Adds one step of `channels` channels of inputs, the others being zero. first: it is the first to be added.
  void add(bool first, int64_t channels, const Buffer<T>& inputs, const Buffer<T>& dgates) const {
    const int64_t units = 4 * ((blocks_ + blocks_a_unit_ - 1) / blocks_a_unit_);
    const int64_t work = plan_.layer.batch * plan_.grid.pixels() * plan_.kernel.row_block * plan_.layer.channels;
    plan_.parallel(units, work, [&](int64_t begin, int64_t end) {
      const Buffer<T> scratch(winograd_gradient_scratch(plan_.inputs(), blocks_a_unit_));
      for (int64_t unit = begin; unit < end; ++unit) {
        T* sums = first ? total_.data() : step_.data();
        for_each_range(unit, [&](int64_t begin, int64_t size) { std::fill_n(sums + begin, size, T(0)); });
        sum_up(unit, channels, inputs, dgates, scratch.data(), sums);
        if (first) continue;
        for_each_range(unit, [&](int64_t begin, int64_t size) {
          T* to = total_.data() + begin;
          for (int64_t i = 0; i < size; ++i) to[i] += sums[begin + i];
        });
      }
    });
  }

  // Writes the gradients, after the last step.
  void finish() const {
    plan_.parallel(blocks_, form_.block_size(), [&](int64_t begin, int64_t end) {
      const Buffer<T> filters(form_.filters_size(weights_.area));
      for (int64_t block = begin; block < end; ++block) form_.unpack(total_.data(), block, filters.data(), weights_);
    });
  }

 private:
  // Calls body(begin, size) for the ranges of values that a unit owns.
  template <class Body>
  void for_each_range(int64_t unit, const Body& body) const {
    const int64_t slab = plan_.inputs() * plan_.kernel.row_block;
    const int64_t first = unit / 4 * blocks_a_unit_, position = unit % 4 * 4;
    const int64_t begin = parts_.begin(position), size = parts_.begin(position + 4) - begin;
    for (int64_t i = first; i < std::min(first + blocks_a_unit_, blocks_); ++i)
      body((i * parts_.size() + begin) * slab, size * slab);
  }

  void sum_up(int64_t unit, int64_t channels, const Buffer<T>& frames, const Buffer<T>& dgates, T* scratch,
              T* sums) const {
    const Strips& strips = plan_.strips;
    const int64_t first = unit / 4 * blocks_a_unit_, gates = plan_.gates(), inputs = plan_.inputs();
    const int64_t step = plan_.layer.dilation;
    const WinogradConvolution<T> convolution{nullptr, inputs, plan_.padded(rows_), step * plan_.grid.pitch(),
                                             step,    parts_, shifts_.data()};
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      plan_.kernel.winograd_weight_gradient(convolution, {plan_.frame(frames, n, inputs), inputs, channels},
                                            strips.corner.data(),
                                            {plan_.frame(dgates, n, gates) + first_, gates, rows_}, strips.first.data(),
                                            static_cast<int64_t>(strips.first.size()), static_cast<int>(unit % 4),
                                            first, std::min(blocks_a_unit_, blocks_ - first), scratch, sums);
  }

  const Plan<T>& plan_;
  const int64_t first_, rows_, blocks_, blocks_a_unit_;
  const WinogradParts parts_;
  const std::vector<int64_t> shifts_;
  const WeightPair<T> weights_;
  const PackedWeight<T> form_;
  const Buffer<T> total_;  // packed like the weights: of all steps so far,
  Buffer<T> step_;         // and of one that is not the first
};

}  // namespace pdb::cpu
