// pdb_ext::convlstm_backward on the CPU. Each step, from the last to the first, is three parallel loops: the cell's
// gradients (strips), the transposed convolutions to x and to the previous h (strips), and the weights' gradients (taps
// and row blocks, each summed by one thread in one order). So the result does not depend on the number of threads.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "convlstm_cpu.h"

namespace pdb::cpu {
namespace {

// Sums the gradient of one weight over the steps.
template <class T>
struct WeightGradient {
  int64_t channels = 0;
  at::Tensor frames, packed;  // the convolution's input at this step; the sums, packed as the weight

  WeightGradient() = default;
  WeightGradient(const Layer<T>& layer, int64_t channels)
      : channels(channels),
        frames(layer.frames(channels)),
        packed(at::zeros({layer.padded(layer.gates()) * layer.window.size() * channels}, layer.options)) {}
  bool wanted() const { return packed.defined(); }

  // Unit `unit` of window.size() * row blocks.
  void add(const Layer<T>& layer, const at::Tensor& dgates, int64_t unit) const {
    const int64_t block = layer.kernel.row_block, tap = unit % layer.window.size();
    layer.kernel.weight_gradient(layer.grid(), layer.s.batch, frames.data_ptr<T>(), channels, layer.window.offsets[tap],
                                 dgates.data_ptr<T>(), layer.gates(), unit / layer.window.size() * block,
                                 packed.data_ptr<T>() + unit * channels * block);
  }

  at::Tensor result(const Layer<T>& layer) const {
    const int64_t k = layer.s.kernel_size;
    at::Tensor weight = at::zeros({layer.gates(), channels, k, k}, layer.options);
    unpack_weight(packed.data_ptr<T>(), layer.gates(), channels * k * k, channels, k * k, layer.window.taps,
                  layer.kernel.row_block, weight.data_ptr<T>());
    return weight;
  }
};

struct Saved {
  const at::Tensor &output, &reserve;
};

template <class T>
class Backward {
 public:
  Backward(const Sizes& sizes, const Inputs& inputs, const Saved& saved, bool reverse, bool peephole_current,
           const std::array<bool, kGradients>& needs)
      : layer_(sizes, inputs.x),
        inputs_(inputs),
        saved_(saved),
        reverse_(reverse),
        peephole_current_(peephole_current),
        to_x_(PackedConvolution<T>::transposed(layer_, inputs.weight_x)),
        to_h_(PackedConvolution<T>::transposed(layer_, inputs.weight_h)),
        peephole_(peephole_to_pixels(inputs.peephole)),
        dgates_(layer_.frames(layer_.gates())) {
    const int64_t state = layer_.grid().pixels() * sizes.channels;
    dh_ = at::zeros({sizes.batch, state}, layer_.options);
    dc_ = at::zeros({sizes.batch, state}, layer_.options);
    if (needs[kX]) dx_ = at::empty(inputs.x.sizes(), layer_.options);
    if (needs[kWeightX]) dweight_x_ = WeightGradient<T>(layer_, sizes.in_channels);
    if (needs[kWeightH]) dweight_h_ = WeightGradient<T>(layer_, sizes.channels);
    if (needs[kBias]) dbias_ = at::zeros({layer_.padded(layer_.gates())}, layer_.options);
    if (needs[kPeephole]) dpeephole_ = at::zeros({3, sizes.height, sizes.width, sizes.channels}, layer_.options);
    if (inputs.h_0) c_0_ = state_to_pixels(layer_, *inputs.c_0);
    needs_h_0_ = needs[kH0];
  }

  void run(const OptionalTensor& grad_output, const OptionalTensor& grad_c_n) {
    if (grad_c_n) dc_ = state_to_pixels(layer_, *grad_c_n);
    for (int64_t step = layer_.s.steps - 1; step >= 0; --step) {
      const int64_t t = layer_.frame(step, reverse_);
      const bool has_h = step > 0 || inputs_.h_0.has_value();
      cell(step, t, grad_output ? grad_output->select(0, t) : at::Tensor());
      const bool to_h = step > 0 || needs_h_0_;
      if (to_h || dx_.defined()) convolve(dx_.defined() ? dx_.select(0, t) : at::Tensor(), to_h);
      if (dweight_x_.wanted()) layer_.to_frames(inputs_.x.select(0, t), layer_.s.in_channels, dweight_x_.frames);
      if (dweight_h_.wanted() && has_h) layer_.to_frames(previous_h(step), layer_.s.channels, dweight_h_.frames);
      weights(has_h);
    }
  }

  BackwardResult result(const std::array<bool, kGradients>& needs) const {
    const auto none = [&] { return layer_.buffer(0); };
    return {needs[kX] ? dx_ : none(),
            needs[kWeightX] ? dweight_x_.result(layer_) : none(),
            needs[kWeightH] ? dweight_h_.result(layer_) : none(),
            needs[kBias] ? dbias_.narrow(0, 0, layer_.gates()).clone() : none(),
            needs[kPeephole] ? dpeephole_.permute({0, 3, 1, 2}).contiguous() : none(),
            needs[kH0] ? state_from_pixels(layer_, dh_) : none(),
            needs[kC0] ? state_from_pixels(layer_, dc_) : none()};
  }

 private:
  at::Tensor previous_h(int64_t step) const {
    return step > 0 ? saved_.output.select(0, layer_.frame(step - 1, reverse_)) : *inputs_.h_0;
  }
  // Cell states [N][pixels][C] after `step`; null for the zeros before step 0.
  const T* cells(int64_t step) const {
    if (step < 0) return data_or_null<T>(c_0_);
    const Sizes& s = layer_.s;
    const int64_t size = s.batch * layer_.grid().pixels() * s.channels;
    return saved_.reserve.data_ptr<T>() + (4 * s.steps + layer_.frame(step, reverse_)) * size;
  }

  void cell(int64_t step, int64_t t, const at::Tensor& grad_output) {
    const int64_t C = layer_.s.channels, batch = layer_.s.batch;
    const T* gates = saved_.reserve.data_ptr<T>() + t * batch * layer_.grid().pixels() * 4 * C;
    // The pictures of a batch share the peephole: one thread sums its gradient over all of them.
    at::parallel_for(0, layer_.strips(), layer_.grain(batch * kStripPixels * C * 32), [&](int64_t begin, int64_t end) {
      std::vector<T> dh(kStripPixels * C), dgates(kStripPixels * 4 * C);
      for (int64_t first = begin * kStripPixels; first < end * kStripPixels; first += kStripPixels)
        for (int64_t n = 0; n < batch; ++n) cell_strip(step, n, first, gates, grad_output, dh.data(), dgates.data());
    });
  }

  void cell_strip(int64_t step, int64_t n, int64_t first, const T* gates, const at::Tensor& grad_output, T* dh,
                  T* dgates) {
    if (first >= layer_.grid().pixels()) return;
    const int64_t C = layer_.s.channels, pixels = layer_.strip_pixels(first);
    const int64_t at = (n * layer_.grid().pixels() + first) * C;
    const T* from_later = dh_.template data_ptr<T>() + at;
    if (grad_output.defined()) {
      picture_to_strip(layer_.template picture<const T>(grad_output, n), C, layer_.grid(), first, pixels, dh);
      for (int64_t i = 0; i < pixels * C; ++i) dh[i] += from_later[i];
    }
    CellBackward<T> strip;
    strip.pixels = pixels;
    strip.channels = C;
    strip.peephole_current = peephole_current_;
    strip.peephole = peephole_.defined() ? peephole_.template data_ptr<T>() + first * C : nullptr;
    strip.peephole_stride = layer_.grid().pixels() * C;
    strip.c_previous = cells(step - 1) ? cells(step - 1) + at : nullptr;
    strip.saved_gates = gates + at * 4;
    strip.c = cells(step) + at;
    strip.dh = grad_output.defined() ? dh : from_later;
    strip.dc = dc_.template data_ptr<T>() + at;
    strip.dgates = dgates;
    strip.dpeephole = dpeephole_.defined() ? dpeephole_.template data_ptr<T>() + first * C : nullptr;
    layer_.kernel.cell_backward(strip);
    T* frame = dgates_.template data_ptr<T>() + n * layer_.grid().frame_pixels() * 4 * C;
    strip_to_frame(dgates, 4 * C, layer_.grid(), first, pixels, frame);
  }

  void convolve(const at::Tensor& dx, bool to_h) {
    const Sizes& s = layer_.s;
    const std::vector<T> zeros(std::max(to_x_.convolution.rows, to_h_.convolution.rows), T(0));
    at::parallel_for(0, s.batch * layer_.strips(), layer_.convolution_grain(), [&](int64_t begin, int64_t end) {
      std::vector<T> sums(kStripPixels * zeros.size());
      const T* centers[kStripPixels];
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / layer_.strips(), first = unit % layer_.strips() * kStripPixels;
        const int64_t pixels = layer_.strip_pixels(first);
        const T* frame = dgates_.template data_ptr<T>() + n * layer_.grid().frame_pixels() * layer_.gates();
        layer_.centers(frame, layer_.gates(), first, pixels, centers);
        if (dx.defined()) {
          layer_.kernel.convolve(to_x_.convolution, centers, pixels, zeros.data(), sums.data());
          strip_to_picture(sums.data(), to_x_.convolution.rows, s.in_channels, layer_.grid(), first, pixels,
                           layer_.template picture<T>(dx, n));
        }
        if (to_h) {
          layer_.kernel.convolve(to_h_.convolution, centers, pixels, zeros.data(), sums.data());
          T* dh = dh_.template data_ptr<T>() + (n * layer_.grid().pixels() + first) * s.channels;
          for (int64_t p = 0; p < pixels; ++p)
            std::copy_n(sums.data() + p * to_h_.convolution.rows, s.channels, dh + p * s.channels);
        }
      }
    });
  }

  void weights(bool has_h) {
    const int64_t blocks = layer_.padded(layer_.gates()) / layer_.kernel.row_block;
    const int64_t units = blocks * layer_.window.size();
    const int64_t x_units = dweight_x_.wanted() ? units : 0, h_units = dweight_h_.wanted() && has_h ? units : 0;
    const int64_t bias_units = dbias_.defined() ? blocks : 0;
    const int64_t work = layer_.s.batch * layer_.grid().pixels() * layer_.kernel.row_block * layer_.s.channels;
    at::parallel_for(0, x_units + h_units + bias_units, layer_.grain(work), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        if (unit < x_units) {
          dweight_x_.add(layer_, dgates_, unit);
        } else if (unit < x_units + h_units) {
          dweight_h_.add(layer_, dgates_, unit - x_units);
        } else {
          const int64_t row = (unit - x_units - h_units) * layer_.kernel.row_block;
          layer_.kernel.bias_gradient(layer_.grid(), layer_.s.batch, dgates_.template data_ptr<T>(), layer_.gates(), row,
                                      dbias_.template data_ptr<T>() + row);
        }
      }
    });
  }

  Layer<T> layer_;
  const Inputs& inputs_;
  const Saved saved_;
  const bool reverse_, peephole_current_;
  PackedConvolution<T> to_x_, to_h_;
  at::Tensor peephole_, c_0_;
  at::Tensor dgates_;    // frames of 4C channels
  at::Tensor dh_, dc_;   // [N][pixels][C]: what later steps send to this one
  at::Tensor dx_, dbias_, dpeephole_;
  WeightGradient<T> dweight_x_, dweight_h_;
  bool needs_h_0_ = false;
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
    Backward<scalar_t> backward(s, inputs, {output, reserve}, reverse, peephole_current, needs);
    backward.run(grad_output, grad_c_n);
    result = backward.result(needs);
  });
  return result;
}

}  // namespace
}  // namespace pdb::cpu

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) { m.impl("convlstm_backward", &pdb::cpu::convlstm_backward_cpu); }
