// The backward pass. Each step, from the last to the first, is three parallel loops: the cell's gradients (by strips),
// the transposed convolution to x and to the previous h (by strips), and the weights' gradients (each value summed by
// one thread in one order). So the result does not depend on the number of threads.
#include <memory>

#include "cpu/input_gradient.h"
#include "cpu/recompute.h"
#include "cpu/weight_gradient.h"

namespace pdb::cpu {
namespace {

template <class T>
class Backward {
 public:
  Backward(const Layer& layer, const BackwardTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads),
        tensors_(tensors),
        x_rows_(tensors.grad_x ? layer.in_channels : 0),
        to_inputs_(plan_, tensors.weight_x, tensors.weight_h, 0, plan_.gates(), x_rows_),
        peephole_(peephole_to_pixels(plan_, tensors.peephole)),
        dgates_(plan_.frames(plan_.gates())),
        dh_{Buffer<T>(plan_.state()), Buffer<T>(plan_.state())},
        dc_(Buffer<T>::zeros(plan_.state())),
        c_0_(tensors.c_0 ? plan_.state() : 0),
        dx_(layer.batch * plan_.grid.pixels() * x_rows_),
        needs_weights_(tensors.grad_weight_x || tensors.grad_weight_h),
        inputs_(needs_weights_ ? plan_.frames(plan_.inputs()) : Buffer<T>()),
        weights_(plan_, 0, plan_.gates(), tensors.grad_weight_x, tensors.grad_weight_h, tensors.grad_bias) {
    if (!tensors.gates) recomputation_ = std::make_unique<Recomputation<T>>(plan_, tensors, peephole_.data());
    if (tensors.grad_peephole) dpeephole_ = Buffer<T>::zeros(kPeepholeCount * plan_.picture_state());
    if (tensors.c_0) plan_.to_pixels(tensors.c_0, layer.batch, c_0_.data());
    if (tensors.grad_c_n) plan_.to_pixels(tensors.grad_c_n, layer.batch, dc_.data());
  }

  void run() {
    const Layer& layer = plan_.layer;
    plan_.parallel_rows(layer.channels, [&](int64_t n, int64_t y) { load_dh(layer.steps - 1, n, y); });
    for (int64_t step = layer.steps - 1; step >= 0; --step) {
      cell(step);
      const bool wants_h = step > 0 || tensors_.grad_h_0;
      to_inputs_.run(dgates_, false, dx_, wants_h, [&](int64_t n, int64_t strip, const T* sums, int64_t stride) {
        plan_.add_to_pixels(strip, sums, stride, layer.channels, dh(step - 1) + n * plan_.picture_state());
      });
      weights_.add(step == layer.steps - 1, h_previous(step).data != nullptr, inputs_, dgates_);
    }
    if (x_rows_) plan_.parallel_rows(x_rows_, [&](int64_t n, int64_t y) { emit_dx(0, n, y); });
    weights_.finish();
    if (tensors_.grad_peephole) plan_.from_pixels(dpeephole_.data(), kPeepholeCount, tensors_.grad_peephole);
    if (tensors_.grad_h_0) plan_.from_pixels(dh(-1), layer.batch, tensors_.grad_h_0);
    if (tensors_.grad_c_0) plan_.from_pixels(dc_.data(), layer.batch, tensors_.grad_c_0);
  }

 private:
  // Cell states [N][pixels][C] after `step`; null for the zeros before step 0.
  const T* cells(int64_t step) const {
    if (step < 0) return tensors_.c_0 ? c_0_.data() : nullptr;
    return tensors_.cells + plan_.layer.frame(step) * plan_.state();
  }

  // Gradient of h after `step`, [N][pixels][C].
  T* dh(int64_t step) const { return dh_[(step + 1) % 2].data(); }
  Frames<const T> h_previous(int64_t step) const { return plan_.states(step > 0 ? tensors_.output : tensors_.h_0); }

  void cell(int64_t step) const {
    const int64_t C = plan_.layer.channels, batch = plan_.layer.batch;
    const T* gates = recomputation_ ? recomputation_->gates(step, cells(step - 1))
                                    : tensors_.gates + kGateCount * plan_.layer.frame(step) * plan_.state();
    // The images of a batch share the peephole weights: one thread sums their gradient over all images.
    plan_.parallel(plan_.strips.size(), batch * kStripSlots * C * 32, [&](int64_t begin, int64_t end) {
      for (int64_t strip = begin; strip < end; ++strip)
        for (int64_t n = 0; n < batch; ++n) {
          cell_strip(step, n, strip, gates);
          plan_.for_rows_of_strip(strip, [&](int64_t y) { move_row(step, n, y); });
        }
    });
  }

  // Copies that need no loop of their own: x and h for the weights' gradients and the gradient of the step before come
  // in, the gradient of the last step's x goes out.
  void move_row(int64_t step, int64_t n, int64_t y) const {
    if (needs_weights_) load_inputs(step, n, y);
    load_dh(step - 1, n, y);
    if (x_rows_ && step + 1 < plan_.layer.steps) emit_dx(step + 1, n, y);
  }

  void load_inputs(int64_t step, int64_t n, int64_t y) const {
    const Layer& layer = plan_.layer;
    const Frames<const T> h = h_previous(step);
    plan_.row_to_frame(tensors_.x, layer.frame(step), n, y, layer.in_channels, 0, inputs_);
    if (h.data)
      plan_.row_to_frame(h, step > 0 ? layer.frame(step - 1) : 0, n, y, layer.channels, layer.in_channels, inputs_);
  }

  // The gradient of the output at a step; to_inputs_ adds what comes from the next step.
  void load_dh(int64_t step, int64_t n, int64_t y) const {
    const int64_t C = plan_.layer.channels, width = plan_.layer.width;
    T* to = dh(step) + n * plan_.picture_state() + y * width * C;
    if (step < 0 || !tensors_.grad_output.data)
      std::fill_n(to, width * C, T(0));
    else
      plan_.row_to_pixels(tensors_.grad_output, plan_.layer.frame(step), n, y, C, to, C);
  }

  void emit_dx(int64_t step, int64_t n, int64_t y) const {
    const T* from = dx_.data() + (n * plan_.grid.height + y) * plan_.grid.width * x_rows_;
    plan_.row_from_pixels(from, x_rows_, x_rows_, tensors_.grad_x, plan_.layer.frame(step), n, y);
  }

  void cell_strip(int64_t step, int64_t n, int64_t strip, const T* gates) const {
    const int64_t picture = n * plan_.picture_state();
    CellBackward<T> cell;
    static_cast<CellStrip<T>&>(cell) = plan_.cell_strip(n, strip, peephole_.data(), cells(step - 1));
    cell.saved_gates = gates + kGateCount * picture;
    cell.c = cells(step) + picture;
    cell.dh = dh(step) + picture;
    cell.dc = dc_.data() + picture;
    cell.dgates = plan_.frame(dgates_, n, plan_.gates());
    cell.dpeephole = dpeephole_.data();
    plan_.kernel.cell_backward(cell);
  }

  const Plan<T> plan_;
  const BackwardTensors<T>& tensors_;
  const int64_t x_rows_;
  const InputGradient<T> to_inputs_;
  const Buffer<T> peephole_;
  const Buffer<T> dgates_;  // frames of 4C channels
  const Buffer<T> dh_[2];   // [N][pixels][C], of step `step` in [(step + 1) % 2]
  const Buffer<T> dc_;      // [N][pixels][C]: from later steps
  const Buffer<T> c_0_;
  const Buffer<T> dx_;  // [N][pixels][Cin], of one step
  Buffer<T> dpeephole_;
  const bool needs_weights_;
  const Buffer<T> inputs_;  // x_t and h_{t-1}, for the weights
  const WeightGradient<T> weights_;
  std::unique_ptr<Recomputation<T>> recomputation_;  // where the gates were not saved
};

}  // namespace

template <class T>
void backward(const Layer& layer, const BackwardTensors<T>& tensors, const Threads& threads) {
  if (layer.batch > 0) Backward<T>(layer, tensors, threads).run();
}
template void backward(const Layer&, const BackwardTensors<float>&, const Threads&);
template void backward(const Layer&, const BackwardTensors<double>&, const Threads&);

}  // namespace pdb::cpu
