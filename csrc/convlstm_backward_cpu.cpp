// pdb_ext::convlstm_backward on the CPU. Each step, from the last to the first, is three parallel loops: the cell's
// gradients (strips), the transposed convolution to x and to the previous h (strips), and the weights' gradients (each
// value summed by one thread in one order). So the result does not depend on the number of threads.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "convlstm_cpu.h"
#include "weight_gradient_cpu.h"

namespace pdb::cpu {
namespace {

template <class T>
class Backward {
 public:
  Backward(const Sizes& s, const Inputs& inputs, const at::Tensor& output, const at::Tensor& reserve, bool reverse,
           bool peephole_current, const std::array<bool, kGradients>& needs)
      : layer_(s, inputs.x),
        inputs_(inputs),
        output_(output),
        reserve_(reserve),
        reverse_(reverse),
        peephole_current_(peephole_current),
        needs_(needs),
        // Rows of x, if wanted, and rows of h.
        to_inputs_(StripConvolution<T>::transposed(
            layer_, needs[kX] ? at::cat({inputs.weight_x, inputs.weight_h}, 1) : inputs.weight_h)),
        zeros_(at::zeros({to_inputs_.rows()}, layer_.options)),
        dgates_(layer_.frames(layer_.gates())),
        dh_(at::zeros({s.batch * layer_.state()}, layer_.options)),
        dc_(at::zeros({s.batch * layer_.state()}, layer_.options)),
        weights_(layer_, needs[kWeightX] || needs[kWeightH], needs[kBias]) {
    if (needs[kX]) dx_ = at::empty(inputs.x.sizes(), layer_.options);
    if (needs[kPeephole]) dpeephole_ = at::zeros({3 * layer_.state()}, layer_.options);
    if (inputs.peephole) peephole_ = to_pixels(*inputs.peephole);
    if (inputs.c_0) c_0_ = to_pixels(*inputs.c_0);
  }

  void run(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n) {
    if (grad_c_n) dc_ = to_pixels(*grad_c_n);
    for (int64_t step = layer_.s.steps - 1; step >= 0; --step) {
      const int64_t t = layer_.time(step, reverse_);
      cell(step, grad_output ? grad_output->select(0, t) : at::Tensor());
      if (step > 0 || needs_[kX] || needs_[kH0]) convolve(t);
      weights_.add(inputs_.x.select(0, t), previous_h(step), dgates_);
    }
  }

  BackwardResult result() const {
    const Sizes& s = layer_.s;
    const auto none = [&] { return layer_.buffer(0); };
    const auto [weight_x, weight_h] = weights_.weights();
    return {needs_[kX] ? dx_ : none(),
            needs_[kWeightX] ? weight_x : none(),
            needs_[kWeightH] ? weight_h : none(),
            needs_[kBias] ? weights_.bias() : none(),
            needs_[kPeephole] ? dpeephole_.view({3, s.height, s.width, s.channels}).permute({0, 3, 1, 2}).contiguous() : none(),
            needs_[kH0] ? from_pixels(s, dh_) : none(),
            needs_[kC0] ? from_pixels(s, dc_) : none()};
  }

 private:
  // h_{t-1} (N, C, H, W); undefined where it is zero.
  at::Tensor previous_h(int64_t step) const {
    if (step > 0) return output_.select(0, layer_.time(step - 1, reverse_));
    return inputs_.h_0 ? *inputs_.h_0 : at::Tensor();
  }
  // reserve as Forward writes it: gates, and cell states [N][pixels][C] after `step`, null for the zeros before step 0.
  const T* saved_gates(int64_t step) const {
    return reserve_.data_ptr<T>() + layer_.time(step, reverse_) * layer_.s.batch * layer_.state() * 4;
  }
  const T* cells(int64_t step) const {
    if (step < 0) return data_or_null<T>(c_0_);
    return reserve_.data_ptr<T>() + (4 * layer_.s.steps + layer_.time(step, reverse_)) * layer_.s.batch * layer_.state();
  }

  void cell(int64_t step, const at::Tensor& grad_output) {
    const int64_t C = layer_.s.channels, batch = layer_.s.batch;
    // The pictures of a batch share the peephole: one thread sums its gradient over all of them.
    const int64_t grain = layer_.grain(batch * kStripSlots * C * 32);
    at::parallel_for(0, layer_.strips.size(), grain, [&](int64_t begin, int64_t end) {
      const at::Tensor buffer = layer_.buffer(kStripSlots * 5 * C);
      T *dh = buffer.data_ptr<T>(), *dgates = dh + kStripSlots * C;
      for (int64_t strip = begin; strip < end; ++strip)
        for (int64_t n = 0; n < batch; ++n) {
          gather_dh(n, strip, grad_output, dh);
          cell_strip(step, n, strip, dh, dgates);
          const int64_t* position = layer_.strips.position.data() + layer_.strips.begin[strip];
          T* frame = layer_.frame(dgates_, n, 4 * C);
          for (int64_t p = 0; p < layer_.strips.pixels(strip); ++p)
            std::copy_n(dgates + p * 4 * C, 4 * C, frame + position[p] * 4 * C);
        }
    });
  }

  // The gradient of h_t: from the output, and from the next step.
  void gather_dh(int64_t n, int64_t strip, const at::Tensor& grad_output, T* dh) const {
    const int64_t C = layer_.s.channels, pixels = layer_.strips.pixels(strip);
    if (grad_output.defined()) layer_.from_picture(grad_output, n, strip, C, dh);
    else std::fill_n(dh, pixels * C, T(0));
    const int64_t* pixel = layer_.strips.pixel.data() + layer_.strips.begin[strip];
    const T* later = dh_.template data_ptr<T>() + n * layer_.state();
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < C; ++c) dh[p * C + c] += later[pixel[p] * C + c];
  }

  void cell_strip(int64_t step, int64_t n, int64_t strip, const T* dh, T* dgates) {
    const int64_t entry = layer_.strips.begin[strip], state = n * layer_.state();
    CellBackward<T> cell;
    cell.pixels = layer_.strips.pixels(strip);
    cell.channels = layer_.s.channels;
    cell.pixel = layer_.strips.pixel.data() + entry;
    cell.slot = layer_.strips.slot.data() + entry;
    cell.peephole_current = peephole_current_;
    cell.peephole = data_or_null<T>(peephole_);
    cell.peephole_stride = layer_.state();
    cell.c_previous = cells(step - 1) ? cells(step - 1) + state : nullptr;
    cell.saved_gates = saved_gates(step) + 4 * state;
    cell.c = cells(step) + state;
    cell.dh = dh;
    cell.dc = dc_.template data_ptr<T>() + state;
    cell.dgates = dgates;
    cell.dpeephole = data_or_null<T>(dpeephole_);
    layer_.kernel.cell_backward(cell);
  }

  void convolve(int64_t t) {
    const int64_t strips = layer_.strips.size(), C = layer_.s.channels, rows = to_inputs_.rows();
    const int64_t x_rows = needs_[kX] ? layer_.s.in_channels : 0;
    const at::Tensor dx = needs_[kX] ? dx_.select(0, t) : at::Tensor();
    at::parallel_for(0, layer_.s.batch * strips, layer_.convolution_grain(), [&](int64_t begin, int64_t end) {
      const at::Tensor buffer = layer_.buffer(2 * kStripSlots * rows + to_inputs_.scratch());
      T* sums = buffer.data_ptr<T>();
      T *ordered = sums + kStripSlots * rows, *scratch = ordered + kStripSlots * rows;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / strips, strip = unit % strips;
        const Source<T> source{layer_.frame(dgates_, n, layer_.gates()), layer_.gates(), layer_.gates()};
        to_inputs_.run(strip, source, zeros_.template data_ptr<T>(), scratch, sums);
        const int64_t entry = layer_.strips.begin[strip], *pixel = layer_.strips.pixel.data() + entry;
        T* dh = dh_.template data_ptr<T>() + n * layer_.state();
        for (int64_t p = 0; p < layer_.strips.pixels(strip); ++p) {
          const T* from = sums + layer_.strips.slot[entry + p] * rows;
          std::copy_n(from, x_rows, ordered + p * rows);
          std::copy_n(from + x_rows, C, dh + pixel[p] * C);
        }
        if (dx.defined()) layer_.to_picture(ordered, rows, strip, dx, n);
      }
    });
  }

  Layer<T> layer_;
  const Inputs& inputs_;
  const at::Tensor &output_, &reserve_;
  const bool reverse_, peephole_current_;
  const std::array<bool, kGradients> needs_;
  StripConvolution<T> to_inputs_;
  at::Tensor zeros_, peephole_, c_0_;
  at::Tensor dgates_;   // frames of 4C channels
  at::Tensor dh_, dc_;  // [N][pixels][C]: what later steps send to this one
  at::Tensor dx_, dpeephole_;
  WeightGradient<T> weights_;
};

BackwardResult convlstm_backward_cpu(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n,
                                     const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                                     const OptionalTensor& peephole, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                     const at::Tensor& output, const at::Tensor& reserve, int64_t dilation, bool reverse,
                                     bool peephole_current, std::array<bool, kGradients> needs) {
  const OptionalTensor no_bias;
  const Inputs inputs{x, weight_x, weight_h, no_bias, peephole, h_0, c_0, dilation};
  const Sizes s = check_inputs("convlstm_backward", inputs);
  check_saved(s, inputs, output, reserve, grad_output, grad_c_n);
  BackwardResult result;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm_backward", [&] {
    Backward<scalar_t> backward(s, inputs, output, reserve, reverse, peephole_current, needs);
    backward.run(grad_output, grad_c_n);
    result = backward.result();
  });
  return result;
}

}  // namespace
}  // namespace pdb::cpu

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) { m.impl("convlstm_backward", &pdb::cpu::convlstm_backward_cpu); }
