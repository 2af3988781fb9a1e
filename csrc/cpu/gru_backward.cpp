// The ConvGRU's backward pass. Each step, from the last to the first, is four parallel loops: the gradients of z and n
// (by rows); the transposed convolution of n's, which gives those of r . h and with them r's (by strips); that of r's
// and z's (by strips); and the weights' gradients. The result does not depend on the number of threads.
#include "cpu/gru_layer.h"
#include "cpu/input_gradient.h"
#include "cpu/weight_gradient.h"

namespace pdb::cpu {
namespace {

template <class T>
class GruBackwardPass {
 public:
  GruBackwardPass(const Layer& layer, const GruBackwardTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads, kGruGateCount),
        tensors_(tensors),
        x_rows_(tensors.grad_x ? layer.in_channels : 0),
        needs_weights_(tensors.grad_weight_x || tensors.grad_weight_h),
        from_r_z_(plan_, tensors.weight_x, tensors.weight_h, kGateR * layer.channels, 2 * layer.channels, x_rows_),
        from_n_(plan_, tensors.weight_x, tensors.weight_h, kGateN * layer.channels, layer.channels, x_rows_),
        h_frames_(plan_.frames(plan_.inputs())),
        reset_frames_(needs_weights_ ? plan_.frames(plan_.inputs()) : Buffer<T>()),
        dgates_(plan_.frames(plan_.gates())),
        dh_(Buffer<T>::zeros(plan_.state())),
        dx_(layer.batch * plan_.grid.pixels() * x_rows_),
        weights_r_z_(plan_, kGateR * layer.channels, 2 * layer.channels, tensors.grad_weight_x, tensors.grad_weight_h,
                     tensors.grad_bias),
        weights_n_(plan_, kGateN * layer.channels, layer.channels, tensors.grad_weight_x, tensors.grad_weight_h,
                   tensors.grad_bias) {}

  void run() const {
    const int64_t last = plan_.layer.steps - 1;
    for (int64_t step = last; step >= 0; --step) {
      const bool has_h = h_previous(step).data, wants_h = step > 0 || tensors_.grad_h_0;
      update(step, has_h);
      from_n_.run(dgates_, false, dx_, has_h || wants_h, [&](int64_t n, int64_t strip, const T* sums, int64_t stride) {
        reset(step, has_h, n, strip, sums, stride);
      });
      from_r_z_.run(dgates_, true, dx_, wants_h, [&](int64_t n, int64_t strip, const T* sums, int64_t stride) {
        plan_.add_to_pixels(strip, sums, stride, plan_.layer.channels, dh_.data() + n * plan_.picture_state());
      });
      weights_r_z_.add(step == last, has_h, h_frames_, dgates_);
      weights_n_.add(step == last, has_h, reset_frames_, dgates_);
    }
    if (x_rows_) plan_.parallel_rows(x_rows_, [&](int64_t n, int64_t y) { emit_dx(0, n, y); });
    weights_r_z_.finish();
    weights_n_.finish();
    if (tensors_.grad_h_0) plan_.from_pixels(dh_.data(), plan_.layer.batch, tensors_.grad_h_0);
  }

 private:
  Frames<const T> h_previous(int64_t step) const { return plan_.states(step > 0 ? tensors_.output : tensors_.h_0); }
  const T* gates(int64_t step, int64_t n) const {
    return tensors_.gates + kGruGateCount * (plan_.layer.frame(step) * plan_.state() + n * plan_.picture_state());
  }
  // h_{t-1} of image n, beside its x; null for zeros.
  const T* h(int64_t n, bool has_h) const {
    return has_h ? plan_.frame(h_frames_, n, plan_.inputs()) + plan_.layer.in_channels : nullptr;
  }

  // The first half of the cell. Meanwhile x and h come in, and the gradient of the last step's x goes out.
  void update(int64_t step, bool has_h) const {
    const Layer& layer = plan_.layer;
    plan_.parallel(layer.batch * layer.height, 16 * layer.width * plan_.inputs(), [&](int64_t begin, int64_t end) {
      const Buffer<T> grad(layer.width * layer.channels);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / layer.height, y = unit % layer.height;
        if (x_rows_ && step + 1 < layer.steps) emit_dx(step + 1, n, y);
        load_row(step, n, y);
        update_row(step, has_h, n, y, grad.data());
      }
    });
  }

  void load_row(int64_t step, int64_t n, int64_t y) const {
    const Layer& layer = plan_.layer;
    const Frames<const T> h = h_previous(step);
    if (h.data)
      plan_.row_to_frame(h, step > 0 ? layer.frame(step - 1) : 0, n, y, layer.channels, layer.in_channels, h_frames_);
    if (!needs_weights_) return;
    for (const Buffer<T>* frames : {&h_frames_, &reset_frames_})
      plan_.row_to_frame(tensors_.x, layer.frame(step), n, y, layer.in_channels, 0, *frames);
  }

  // grad: memory of a row.
  void update_row(int64_t step, bool has_h, int64_t n, int64_t y, T* grad) const {
    const Layer& layer = plan_.layer;
    const int64_t C = layer.channels, inputs = plan_.inputs(), position = plan_.grid.position(y, 0);
    GruUpdateBackward<T> row;
    row.pixels = layer.width;
    row.channels = C;
    row.gates = gates(step, n) + kGruGateCount * y * layer.width * C;
    row.h_previous = has_h ? h(n, true) + position * inputs : nullptr;
    row.stride = inputs;
    row.grad = tensors_.grad_output.data ? grad : nullptr;
    row.dh = dh_.data() + n * plan_.picture_state() + y * layer.width * C;
    row.dgates = plan_.frame(dgates_, n, plan_.gates()) + position * plan_.gates();
    row.reset = needs_weights_ && has_h ? plan_.frame(reset_frames_, n, inputs) + position * inputs + layer.in_channels
                                        : nullptr;
    if (row.grad) plan_.row_to_pixels(tensors_.grad_output, layer.frame(step), n, y, C, grad, C);
    plan_.kernel.gru_update_backward(row);
  }

  // The second half, from the gradients of r . h at a strip.
  void reset(int64_t step, bool has_h, int64_t n, int64_t strip, const T* sums, int64_t stride) const {
    GruResetBackward<T> cell;
    static_cast<StripPixels&>(cell) = plan_.strip_pixels(strip);
    cell.sums = sums;
    cell.sums_stride = stride;
    cell.gates = gates(step, n);
    cell.h_previous = h(n, has_h);
    cell.stride = plan_.inputs();
    cell.dgates = plan_.frame(dgates_, n, plan_.gates());
    cell.dh = dh_.data() + n * plan_.picture_state();
    plan_.kernel.gru_reset_backward(cell);
  }

  void emit_dx(int64_t step, int64_t n, int64_t y) const {
    const T* from = dx_.data() + (n * plan_.grid.height + y) * plan_.grid.width * x_rows_;
    plan_.row_from_pixels(from, x_rows_, x_rows_, tensors_.grad_x, plan_.layer.frame(step), n, y);
  }

  const Plan<T> plan_;
  const GruBackwardTensors<T>& tensors_;
  const int64_t x_rows_;
  const bool needs_weights_;
  const InputGradient<T> from_r_z_, from_n_;
  const Buffer<T> h_frames_;      // x_t, for the weights, and h_{t-1}
  const Buffer<T> reset_frames_;  // x_t and r_t . h_{t-1}, for the weights
  const Buffer<T> dgates_;        // frames of 3C channels
  const Buffer<T> dh_;            // [N][pixels][C], of h_t, then of h_{t-1}
  const Buffer<T> dx_;            // [N][pixels][Cin], of one step
  const WeightGradient<T> weights_r_z_, weights_n_;
};

}  // namespace

template <class T>
void gru_backward(const Layer& layer, const GruBackwardTensors<T>& tensors, const Threads& threads) {
  if (layer.batch > 0) GruBackwardPass<T>(layer, tensors, threads).run();
}
template void gru_backward(const Layer&, const GruBackwardTensors<float>&, const Threads&);
template void gru_backward(const Layer&, const GruBackwardTensors<double>&, const Threads&);

}  // namespace pdb::cpu
