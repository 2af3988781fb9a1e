// Gradients of weight_x, weight_h and bias, summed over the steps. A unit of work owns the values it adds to and visits
// pixels in one order, whichever thread runs it. Each step is summed by itself before it is added to the others, so
// that rounding errors do not grow with sequence length times image size.
#pragma once

#include <memory>

#include "cpu/direct_gradient.h"
#include "cpu/winograd_gradient.h"

namespace pdb::cpu {

template <class T>
class WeightGradient {
 public:
  // Of the `rows` rows of gates from `first` on. The gradients of all gates' weight_x, weight_h and bias; each may be
  // null, which means that it is not wanted.
  WeightGradient(const Plan<T>& plan, int64_t first, int64_t rows, T* weight_x, T* weight_h, T* bias)
      : plan_(plan), first_(first), rows_(rows), bias_(bias) {
    if (bias) sums_ = Buffer<T>::zeros(plan.padded(rows));
    if (!weight_x && !weight_h) return;
    const WeightPair<T> weights = plan.weights(weight_x, weight_h, first);
    if (plan.winograd_gradient())
      winograd_ = std::make_unique<const WinogradGradient<T>>(plan, first, rows, weights);
    else
      direct_ = std::make_unique<const DirectGradient<T>>(plan, first, rows, weights);
  }

  // Adds one step: the frames of its inputs (without h if it is zero), read only for the weights, and those of all
  // gates' gradients. first: whether it is the first to be added.
  void add(bool first, bool has_h, const Buffer<T>& inputs, const Buffer<T>& dgates) const {
    const int64_t channels = has_h ? plan_.inputs() : plan_.layer.in_channels, block = plan_.kernel.row_block;
    if (winograd_) winograd_->add(first, channels, inputs, dgates);
    if (direct_) direct_->add(first, channels, inputs, dgates);
    const int64_t work = plan_.layer.batch * plan_.grid.pixels() * block;
    plan_.parallel(bias_ ? plan_.padded(rows_) / block : 0, work, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) add_bias(i, dgates);
    });
  }

  // Writes the gradients, after the last step.
  void finish() const {
    if (winograd_) winograd_->finish();
    if (direct_) direct_->finish();
    if (bias_) std::copy_n(sums_.data(), rows_, bias_ + first_);
  }

 private:
  void add_bias(int64_t block, const Buffer<T>& dgates) const {
    const int64_t row = block * plan_.kernel.row_block, gates = plan_.gates();
    T step[kMaxRowBlock] = {};
    for (int64_t n = 0; n < plan_.layer.batch; ++n)
      for (int64_t y = 0; y < plan_.grid.height; ++y)
        plan_.kernel.bias_gradient(plan_.frame(dgates, n, gates) + plan_.grid.position(y, 0) * gates + first_ + row,
                                   gates, plan_.grid.width, step);
    for (int64_t i = 0; i < plan_.kernel.row_block; ++i) sums_.data()[row + i] += step[i];
  }

  const Plan<T>& plan_;
  const int64_t first_, rows_;
  std::unique_ptr<const WinogradGradient<T>> winograd_;  // one of the two, where weights are wanted
  std::unique_ptr<const DirectGradient<T>> direct_;
  T* const bias_;
  Buffer<T> sums_;  // of the bias
};

}  // namespace pdb::cpu
