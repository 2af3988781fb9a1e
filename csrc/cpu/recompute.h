// The activated gates of one step, recomputed in the backward pass from x_t, h_{t-1} and c_{t-1}: the memory of one
// step instead of all, for one more forward convolution. The same kernels give the same bits.
#pragma once

#include "cpu/strip_convolution.h"

namespace pdb::cpu {

template <class T>
class Recomputation {
 public:
  Recomputation(const Plan<T>& plan, const BackwardTensors<T>& tensors, const T* peephole)
      : plan_(plan),
        tensors_(tensors),
        convolution_(
            StripConvolution<T>::forward(plan_, plan_.weights(tensors.weight_x, tensors.weight_h), plan_.gates())),
        peephole_(peephole),
        bias_(Buffer<T>::zeros(convolution_.rows())),
        frames_(plan_.frames(plan_.inputs())),
        gates_(kGateCount * plan_.state()),
        c_(plan_.state()) {
    if (tensors.bias) std::copy_n(tensors.bias, plan_.gates(), bias_.data());
  }

  // [N][pixels][4C] of a step, valid until the next call. c_previous: [N][pixels][C], or null for zeros.
  const T* gates(int64_t step, const T* c_previous) const {
    const Layer& layer = plan_.layer;
    const T* h_previous = step > 0 ? tensors_.output : tensors_.h_0;
    plan_.to_frames(tensors_.x, plan_.layer.frame(step), layer.in_channels, 0, frames_);
    if (h_previous) {
      const int64_t frame = step > 0 ? plan_.layer.frame(step - 1) : 0;
      plan_.to_frames(plan_.states(h_previous), frame, layer.channels, layer.in_channels, frames_);
    }
    convolution_.run({frames_, plan_.inputs(), 0, h_previous ? plan_.inputs() : layer.in_channels}, bias_.data(),
                     [&](int64_t n, int64_t strip, T* sums) {
                       const Buffer<T> h(kStripSlots * layer.channels);
                       activate(n, strip, sums, c_previous, h.data());
                     });
    return gates_.data();
  }

 private:
  // The cell also gives c and h, which are known already.
  void activate(int64_t n, int64_t strip, T* sums, const T* c_previous, T* h) const {
    const int64_t picture = n * plan_.picture_state();
    CellForward<T> cell;
    static_cast<CellStrip<T>&>(cell) = plan_.cell_strip(n, strip, peephole_, c_previous);
    cell.gates = sums;
    cell.gates_stride = convolution_.rows();
    cell.c = c_.data() + picture;
    cell.h = h;
    cell.position = cell.slot;  // h, which is dropped, need not be in a frame
    cell.h_stride = plan_.layer.channels;
    cell.saved_gates = gates_.data() + kGateCount * picture;
    plan_.kernel.cell_forward(cell);
  }

  const Plan<T>& plan_;
  const BackwardTensors<T>& tensors_;
  const StripConvolution<T> convolution_;
  const T* peephole_;
  const Buffer<T> bias_;
  const Buffer<T> frames_;  // x_t and h_{t-1}
  const Buffer<T> gates_, c_;
};

}  // namespace pdb::cpu
