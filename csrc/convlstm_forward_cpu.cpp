// pdb_ext::convlstm on the CPU. One step of the recurrence is one parallel loop over strips of pixels; a strip's dilated
// convolution, all four gates, and its cell update follow each other while the pre-activations are in the cache.
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
        inputs_(inputs),
        convolution_(StripConvolution<T>::forward(layer_, at::cat({inputs.weight_x, inputs.weight_h}, 1))),
        bias_(at::zeros({convolution_.rows()}, layer_.options)),
        peephole_current_(peephole_current),
        output_(output),
        reserve_(reserve) {
    if (inputs.bias) bias_.narrow(0, 0, layer_.gates()).copy_(*inputs.bias);
    if (inputs.peephole) peephole_ = to_pixels(*inputs.peephole);
    for (at::Tensor& frames : frames_) frames = layer_.frames(layer_.inputs());
  }

  // Returns c_n (N, C, H, W).
  at::Tensor run(bool reverse) {
    const Sizes& s = layer_.s;
    if (inputs_.h_0) layer_.to_frames(*inputs_.h_0, s.in_channels, frames_[0]);
    c_ = inputs_.c_0 ? to_pixels(*inputs_.c_0) : layer_.buffer(s.batch * layer_.state());
    for (int64_t step = 0; step < s.steps; ++step) {
      const int64_t t = layer_.time(step, reverse);
      layer_.to_frames(inputs_.x.select(0, t), 0, frames_[step % 2]);
      const at::Tensor c_previous = step > 0 || inputs_.c_0 ? c_ : at::Tensor();
      if (reserve_.numel() > 0) c_ = saved_cells(t);
      run_step(step, t, data_or_null<T>(c_previous));
    }
    return from_pixels(s, c_);
  }

 private:
  // reserve: [T][N][pixels][4C] activated gates, then [T][N][pixels][C] cell states.
  at::Tensor saved_cells(int64_t t) const {
    const int64_t size = layer_.s.batch * layer_.state();
    return reserve_.narrow(0, (4 * layer_.s.steps + t) * size, size);
  }

  void run_step(int64_t step, int64_t t, const T* c_previous) {
    const int64_t strips = layer_.strips.size(), C = layer_.s.channels;
    const at::Tensor output = output_.select(0, t);
    T* saved = reserve_.numel() > 0 ? reserve_.data_ptr<T>() + t * layer_.s.batch * layer_.state() * 4 : nullptr;
    // h_{-1} = 0 needs no convolution.
    const int64_t channels = step > 0 || inputs_.h_0 ? layer_.inputs() : layer_.s.in_channels;
    at::parallel_for(0, layer_.s.batch * strips, layer_.convolution_grain(), [&](int64_t begin, int64_t end) {
      const at::Tensor buffer = layer_.buffer(kStripSlots * (convolution_.rows() + C) + convolution_.scratch());
      T* gates = buffer.data_ptr<T>();
      T *h = gates + kStripSlots * convolution_.rows(), *scratch = h + kStripSlots * C;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / strips, strip = unit % strips;
        const Source<T> source{layer_.frame(frames_[step % 2], n, layer_.inputs()), layer_.inputs(), channels};
        convolution_.run(strip, source, bias_.template data_ptr<T>(), scratch, gates);
        update(n, strip, gates, c_previous, saved, h);
        to_frame(h, strip, layer_.frame(frames_[(step + 1) % 2], n, layer_.inputs()));
        layer_.to_picture(h, C, strip, output, n);
      }
    });
  }

  void update(int64_t n, int64_t strip, const T* gates, const T* c_previous, T* saved_gates, T* h) const {
    const int64_t entry = layer_.strips.begin[strip], state = n * layer_.state();
    CellForward<T> cell;
    cell.pixels = layer_.strips.pixels(strip);
    cell.channels = layer_.s.channels;
    cell.pixel = layer_.strips.pixel.data() + entry;
    cell.slot = layer_.strips.slot.data() + entry;
    cell.peephole_current = peephole_current_;
    cell.peephole = data_or_null<T>(peephole_);
    cell.peephole_stride = layer_.state();
    cell.c_previous = c_previous ? c_previous + state : nullptr;
    cell.gates = gates;
    cell.gates_stride = convolution_.rows();
    cell.c = c_.template data_ptr<T>() + state;
    cell.h = h;
    cell.saved_gates = saved_gates ? saved_gates + 4 * state : nullptr;
    layer_.kernel.cell_forward(cell);
  }

  // h of a strip beside the next step's x.
  void to_frame(const T* h, int64_t strip, T* frame) const {
    const int64_t C = layer_.s.channels;
    const int64_t* position = layer_.strips.position.data() + layer_.strips.begin[strip];
    for (int64_t p = 0; p < layer_.strips.pixels(strip); ++p)
      std::copy_n(h + p * C, C, frame + position[p] * layer_.inputs() + layer_.s.in_channels);
  }

  Layer<T> layer_;
  const Inputs& inputs_;
  StripConvolution<T> convolution_;
  at::Tensor bias_, peephole_;
  bool peephole_current_;
  at::Tensor frames_[2];  // x and h_{t-1} of step `step` in [step % 2]
  at::Tensor c_;          // [N][pixels][C], updated in place unless every step's is saved
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
    c_n = Forward<scalar_t>(s, inputs, peephole_current, output, reserve).run(reverse);
  });
  return {output, c_n, reserve};
}

}  // namespace
}  // namespace pdb::cpu

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) { m.impl("convlstm", &pdb::cpu::convlstm_cpu); }
