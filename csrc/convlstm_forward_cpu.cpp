// pdb_ext::convlstm on the CPU. One step of the recurrence is one parallel loop over strips of pixels; a strip's dilated
// convolutions, all four gates, and its cell update follow each other while the pre-activations are in the cache.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "convlstm_cpu.h"

namespace pdb::cpu {
namespace {

template <class T>
class Forward {
 public:
  Forward(const Sizes& sizes, const Inputs& inputs, bool peephole_current, const at::Tensor& output,
          const at::Tensor& reserve)
      : layer_(sizes, inputs.x),
        from_x_(PackedConvolution<T>::forward(layer_, inputs.weight_x)),
        from_h_(PackedConvolution<T>::forward(layer_, inputs.weight_h)),
        bias_(at::zeros({layer_.padded(layer_.gates())}, layer_.options)),
        peephole_(peephole_to_pixels(inputs.peephole)),
        peephole_current_(peephole_current),
        x_frames_(layer_.frames(sizes.in_channels)),
        output_(output),
        reserve_(reserve) {
    if (inputs.bias) bias_.narrow(0, 0, layer_.gates()).copy_(*inputs.bias);
    for (at::Tensor& frames : h_frames_) frames = layer_.frames(sizes.channels);
  }

  // Returns c_n (N, C, H, W).
  at::Tensor run(const Inputs& inputs, bool reverse) {
    const Sizes& s = layer_.s;
    has_state_ = inputs.h_0.has_value();
    if (has_state_) layer_.to_frames(*inputs.h_0, s.channels, h_frames_[0]);
    c_ = has_state_ ? state_to_pixels(layer_, *inputs.c_0) : layer_.buffer(s.batch * layer_.grid().pixels() * s.channels);
    for (int64_t step = 0; step < s.steps; ++step) {
      const int64_t t = layer_.frame(step, reverse);
      layer_.to_frames(inputs.x.select(0, t), s.in_channels, x_frames_);
      const at::Tensor c_previous = step > 0 || has_state_ ? c_ : at::Tensor();
      if (reserve_.numel() > 0) c_ = saved_cells(t);
      this->step(step, t, data_or_null<T>(c_previous));
    }
    return state_from_pixels(layer_, c_);
  }

 private:
  // reserve: [T][N][pixels][4C] activated gates, then [T][N][pixels][C] cell states.
  at::Tensor saved_cells(int64_t t) {
    const Sizes& s = layer_.s;
    const int64_t size = s.batch * layer_.grid().pixels() * s.channels;
    return reserve_.narrow(0, (4 * s.steps + t) * size, size);
  }
  T* saved_gates(int64_t t) {
    return reserve_.numel() > 0 ? reserve_.data_ptr<T>() + t * layer_.s.batch * layer_.grid().pixels() * layer_.gates()
                                : nullptr;
  }

  void step(int64_t step, int64_t t, const T* c_previous) {
    const at::Tensor output = output_.select(0, t);
    T* saved = saved_gates(t);
    at::parallel_for(0, layer_.s.batch * layer_.strips(), layer_.convolution_grain(), [&](int64_t begin, int64_t end) {
      std::vector<T> gates(kStripPixels * from_x_.convolution.rows), h(kStripPixels * layer_.s.channels);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / layer_.strips(), first = unit % layer_.strips() * kStripPixels;
        convolve(step, n, first, gates.data());
        update(n, first, gates.data(), c_previous, saved, h.data());
        emit(step, n, first, h.data(), output);
      }
    });
  }

  void convolve(int64_t step, int64_t n, int64_t first, T* gates) const {
    const int64_t pixels = layer_.strip_pixels(first), frame = n * layer_.grid().frame_pixels();
    const T* centers[kStripPixels];
    layer_.centers(x_frames_.template data_ptr<T>() + frame * layer_.s.in_channels, layer_.s.in_channels, first, pixels,
                   centers);
    layer_.kernel.convolve(from_x_.convolution, centers, pixels, bias_.template data_ptr<T>(), gates);
    if (step == 0 && !has_state_) return;  // h is zero
    const at::Tensor& h = h_frames_[step % 2];
    layer_.centers(h.data_ptr<T>() + frame * layer_.s.channels, layer_.s.channels, first, pixels, centers);
    layer_.kernel.convolve(from_h_.convolution, centers, pixels, nullptr, gates);
  }

  void update(int64_t n, int64_t first, const T* gates, const T* c_previous, T* saved_gates, T* h) const {
    const int64_t C = layer_.s.channels, pixel = n * layer_.grid().pixels() + first;
    CellForward<T> strip;
    strip.pixels = layer_.strip_pixels(first);
    strip.channels = C;
    strip.peephole_current = peephole_current_;
    strip.peephole = peephole_.defined() ? peephole_.template data_ptr<T>() + first * C : nullptr;
    strip.peephole_stride = layer_.grid().pixels() * C;
    strip.c_previous = c_previous ? c_previous + pixel * C : nullptr;
    strip.gates = gates;
    strip.gates_stride = from_x_.convolution.rows;
    strip.c = c_.template data_ptr<T>() + pixel * C;
    strip.h = h;
    strip.saved_gates = saved_gates ? saved_gates + pixel * 4 * C : nullptr;
    layer_.kernel.cell_forward(strip);
  }

  void emit(int64_t step, int64_t n, int64_t first, const T* h, const at::Tensor& output) const {
    const int64_t C = layer_.s.channels, pixels = layer_.strip_pixels(first);
    const Grid& grid = layer_.grid();
    T* frame = h_frames_[(step + 1) % 2].template data_ptr<T>() + n * grid.frame_pixels() * C;
    strip_to_frame(h, C, grid, first, pixels, frame);
    strip_to_picture(h, C, C, grid, first, pixels, layer_.template picture<T>(output, n));
  }

  Layer<T> layer_;
  PackedConvolution<T> from_x_, from_h_;
  at::Tensor bias_, peephole_;
  bool peephole_current_, has_state_ = false;
  at::Tensor x_frames_, h_frames_[2];  // h of step - 1 in [step % 2]
  at::Tensor c_;                       // [N][pixels][C], updated in place unless every step's is saved
  at::Tensor output_, reserve_;
};

ForwardResult convlstm_cpu(const at::Tensor& x, const at::Tensor& weight_x, const at::Tensor& weight_h,
                           const OptionalTensor& bias, const OptionalTensor& peephole, const OptionalTensor& h_0,
                           const OptionalTensor& c_0, int64_t dilation, bool reverse, bool peephole_current, bool save) {
  const Inputs inputs{x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation};
  const Sizes s = check_inputs("convlstm", inputs);
  at::Tensor output = at::empty({s.steps, s.batch, s.channels, s.height, s.width}, x.options());
  at::Tensor reserve = at::empty({save ? s.reserve() : 0}, x.options());
  at::Tensor c_n;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "convlstm", [&] {
    c_n = Forward<scalar_t>(s, inputs, peephole_current, output, reserve).run(inputs, reverse);
  });
  return {output, c_n, reserve};
}

}  // namespace
}  // namespace pdb::cpu

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) { m.impl("convlstm", &pdb::cpu::convlstm_cpu); }
