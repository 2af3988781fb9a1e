// From the gradients of a step's gates to those of its inputs: the transposed convolution, strip by strip.
#pragma once

#include "cpu/strip_convolution.h"

namespace pdb::cpu {

template <class T>
class InputGradient {
 public:
  // Reads the `channels` gates from `first` on. Its rows are those of x, if x_rows is not 0, then those of h. weights:
  // of all gates.
  InputGradient(const Plan<T>& plan, const T* weight_x, const T* weight_h, int64_t first, int64_t channels,
                int64_t x_rows)
      : plan_(plan),
        first_(first),
        channels_(channels),
        x_rows_(x_rows),
        convolution_(transposed(weight_x, weight_h)),
        zeros_(Buffer<T>::zeros(convolution_.rows())) {}

  // dx: [N][pixels][Cin], overwritten or, with adds_dx, added to. of_h(n, strip, sums, stride), if wanted, gets the
  // sums [slot][stride] of h.
  template <class Body>
  void run(const Buffer<T>& dgates, bool adds_dx, const Buffer<T>& dx, bool wants_h, const Body& of_h) const {
    const int64_t rows = wants_h ? convolution_.rows() : plan_.computed(x_rows_);
    if (rows == 0) return;
    convolution_.run({dgates, plan_.gates(), first_, channels_}, zeros_.data(), rows,
                     [&](int64_t n, int64_t strip, const T* sums) {
                       T* to = dx.data() + n * plan_.grid.pixels() * x_rows_;
                       if (adds_dx)
                         plan_.add_to_pixels(strip, sums, rows, x_rows_, to);
                       else
                         copy(strip, sums, rows, to);
                       if (wants_h) of_h(n, strip, sums + x_rows_, rows);
                     });
  }

 private:
  StripConvolution<T> transposed(const T* weight_x, const T* weight_h) const {
    auto weights = plan_.weights(weight_x, weight_h, first_);
    if (!x_rows_) weights.x = nullptr, weights.x_channels = 0;
    return StripConvolution<T>::transposed(plan_, weights, channels_);
  }

  void copy(int64_t strip, const T* sums, int64_t stride, T* to) const {
    const StripPixels at = plan_.strip_pixels(strip);
    for (int64_t p = 0; p < at.pixels; ++p)
      std::copy_n(sums + at.slot[p] * stride, x_rows_, to + at.pixel[p] * x_rows_);
  }

  const Plan<T>& plan_;
  const int64_t first_, channels_, x_rows_;
  const StripConvolution<T> convolution_;
  const Buffer<T> zeros_;
};

}  // namespace pdb::cpu
