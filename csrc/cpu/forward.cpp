// The forward pass. One step of the recurrence is one parallel loop over strips of pixels; a strip's dilated
// convolution, all four gates and its cell update follow each other while the pre-activations are in the cache. (Where
// the convolution is divided by rows of the weight, it is a loop of its own before that: strip_convolution.h.)
#include "cpu/strip_convolution.h"

namespace pdb::cpu {
namespace {

template <class T>
class Forward {
 public:
  Forward(const Layer& layer, const ForwardTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads),
        tensors_(tensors),
        convolution_(
            StripConvolution<T>::forward(plan_, plan_.weights(tensors.weight_x, tensors.weight_h), plan_.gates())),
        bias_(Buffer<T>::zeros(convolution_.rows())),
        peephole_(peephole_to_pixels(plan_, tensors.peephole)),
        frames_{plan_.frames(plan_.inputs()), plan_.frames(plan_.inputs())},
        c_(plan_.state()) {
    if (tensors.bias) std::copy_n(tensors.bias, plan_.gates(), bias_.data());
  }

  void run() {
    const Layer& layer = plan_.layer;
    if (tensors_.h_0) plan_.to_frames(plan_.states(tensors_.h_0), 0, layer.channels, layer.in_channels, frames_[0]);
    if (tensors_.c_0) plan_.to_pixels(tensors_.c_0, layer.batch, c_.data());
    const T* c_previous = tensors_.c_0 ? c_.data() : nullptr;
    plan_.to_frames(tensors_.x, plan_.layer.frame(0), layer.in_channels, 0, frames_[0]);
    for (int64_t step = 0; step < layer.steps; ++step) {
      const int64_t t = plan_.layer.frame(step);
      // Updated in place unless the cells of every step are saved.
      T* c = tensors_.cells ? tensors_.cells + t * plan_.state() : c_.data();
      run_step(step, t, c_previous, c);
      c_previous = c;
    }
    plan_.parallel_rows(2 * layer.channels, [&](int64_t n, int64_t y) {
      const T* c = c_previous + n * plan_.picture_state() + y * layer.width * layer.channels;
      plan_.row_from_pixels(c, layer.channels, layer.channels, tensors_.c_n, 0, n, y);
      emit_row(layer.steps - 1, n, y);
    });
  }

 private:
  void run_step(int64_t step, int64_t t, const T* c_previous, T* c) const {
    const bool has_h = step > 0 || tensors_.h_0;  // else it is zero, and needs no convolution
    const int64_t inputs = plan_.inputs();
    convolution_.run({frames_[step % 2], inputs, 0, has_h ? inputs : plan_.layer.in_channels}, bias_.data(),
                     [&](int64_t n, int64_t strip, T* gates) {
                       update(step, t, n, strip, gates, c_previous, c);
                       plan_.for_rows_of_strip(strip, [&](int64_t y) { move_row(step, n, y); });
                     });
  }

  // Copies that overlap with a running step: the next step's x comes in, the last step's h goes out.
  void move_row(int64_t step, int64_t n, int64_t y) const {
    if (step + 1 < plan_.layer.steps)
      plan_.row_to_frame(tensors_.x, plan_.layer.frame(step + 1), n, y, plan_.layer.in_channels, 0,
                         frames_[(step + 1) % 2]);
    if (step > 0) emit_row(step - 1, n, y);
  }

  // One row of a step's h, which lies beside the x of the step after it.
  void emit_row(int64_t step, int64_t n, int64_t y) const {
    const T* frame = plan_.frame(frames_[(step + 1) % 2], n, plan_.inputs()) + plan_.layer.in_channels;
    plan_.row_from_pixels(frame + plan_.grid.position(y, 0) * plan_.inputs(), plan_.inputs(), plan_.layer.channels,
                          tensors_.output, plan_.layer.frame(step), n, y);
  }

  void update(int64_t step, int64_t t, int64_t n, int64_t strip, T* gates, const T* c_previous, T* c) const {
    const int64_t picture = n * plan_.picture_state();
    CellForward<T> cell;
    static_cast<CellStrip<T>&>(cell) = plan_.cell_strip(n, strip, peephole_.data(), c_previous);
    cell.gates = gates;
    cell.gates_stride = convolution_.rows();
    cell.c = c + picture;
    cell.h = plan_.frame(frames_[(step + 1) % 2], n, plan_.inputs()) + plan_.layer.in_channels;
    cell.h_stride = plan_.inputs();
    cell.saved_gates = tensors_.gates ? tensors_.gates + kGateCount * (t * plan_.state() + picture) : nullptr;
    plan_.kernel.cell_forward(cell);
  }

  const Plan<T> plan_;
  const ForwardTensors<T>& tensors_;
  const StripConvolution<T> convolution_;
  const Buffer<T> bias_, peephole_;
  const Buffer<T> frames_[2];  // x and h_{t-1} of step `step` in [step % 2]
  const Buffer<T> c_;          // [N][pixels][C]
};

}  // namespace

template <class T>
void forward(const Layer& layer, const ForwardTensors<T>& tensors, const Threads& threads) {
  if (layer.batch > 0) Forward<T>(layer, tensors, threads).run();
}
template void forward(const Layer&, const ForwardTensors<float>&, const Threads&);
template void forward(const Layer&, const ForwardTensors<double>&, const Threads&);

}  // namespace pdb::cpu
