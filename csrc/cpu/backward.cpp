// The backward pass. Each step, from the last to the first, is three parallel loops: the cell's gradients (strips), the
// transposed convolution to x and to the previous h (strips), and the weights' gradients (each value summed by one thread
// in one order). So the result does not depend on the number of threads.
#include <memory>

#include "recompute.h"
#include "strip_convolution.h"
#include "weight_gradient.h"

namespace pdb::cpu {
namespace {

template <class T>
class Backward {
 public:
  Backward(const Layer& layer, const BackwardTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads),
        tensors_(tensors),
        x_rows_(tensors.grad_x ? layer.in_channels : 0),
        to_inputs_(transposed()),
        zeros_(Buffer<T>::zeros(to_inputs_.rows())),
        peephole_(peephole_to_pixels(plan_, tensors.peephole)),
        dgates_(plan_.frames(plan_.gates())),
        dh_(Buffer<T>::zeros(plan_.state())),
        dc_(Buffer<T>::zeros(plan_.state())),
        c_0_(tensors.c_0 ? plan_.state() : 0),
        weights_(plan_, tensors.grad_weight_x || tensors.grad_weight_h, tensors.grad_bias) {
    if (!tensors.gates) recomputation_ = std::make_unique<Recomputation<T>>(plan_, tensors, peephole_.data());
    if (tensors.grad_peephole) dpeephole_ = Buffer<T>::zeros(3 * plan_.picture_state());
    if (tensors.c_0) plan_.to_pixels(tensors.c_0, layer.batch, c_0_.data());
    if (tensors.grad_c_n) plan_.to_pixels(tensors.grad_c_n, layer.batch, dc_.data());
  }

  void run() {
    const Layer& layer = plan_.layer;
    for (int64_t step = layer.steps - 1; step >= 0; --step) {
      const int64_t t = plan_.time(step);
      cell(step);
      const bool wants_h = step > 0 || tensors_.grad_h_0;
      if (wants_h || tensors_.grad_x) convolve(t, wants_h);
      const T* h_previous = step > 0 ? tensors_.output : tensors_.h_0;
      weights_.add(tensors_.x, t, plan_.states(h_previous), step > 0 ? plan_.time(step - 1) : 0, dgates_);
    }
    weights_.result(tensors_.grad_weight_x, tensors_.grad_weight_h, tensors_.grad_bias);
    if (tensors_.grad_peephole) plan_.from_pixels(dpeephole_.data(), 3, tensors_.grad_peephole);
    if (tensors_.grad_h_0) plan_.from_pixels(dh_.data(), layer.batch, tensors_.grad_h_0);
    if (tensors_.grad_c_0) plan_.from_pixels(dc_.data(), layer.batch, tensors_.grad_c_0);
  }

 private:
  // Rows of x, if wanted, and rows of h.
  StripConvolution<T> transposed() const {
    const int64_t gates = plan_.gates();
    if (!x_rows_) return StripConvolution<T>::transposed(plan_, tensors_.weight_h, plan_.layer.channels, gates);
    const Buffer<T> joined = join_weights(plan_, tensors_.weight_x, tensors_.weight_h);
    return StripConvolution<T>::transposed(plan_, joined.data(), plan_.inputs(), gates);
  }

  // Cell states [N][pixels][C] after `step`; null for the zeros before step 0.
  const T* cells(int64_t step) const {
    if (step < 0) return tensors_.c_0 ? c_0_.data() : nullptr;
    return tensors_.cells + plan_.time(step) * plan_.state();
  }

  void cell(int64_t step) const {
    const int64_t C = plan_.layer.channels, batch = plan_.layer.batch;
    const T* gates = recomputation_ ? recomputation_->gates(step, cells(step - 1))
                                    : tensors_.gates + 4 * plan_.time(step) * plan_.state();
    // The pictures of a batch share the peephole: one thread sums its gradient over all of them.
    plan_.parallel(plan_.strips.size(), batch * kStripSlots * C * 32, [&](int64_t begin, int64_t end) {
      const Buffer<T> buffer(kStripSlots * 5 * C);
      T *dh = buffer.data(), *dgates = dh + kStripSlots * C;
      for (int64_t strip = begin; strip < end; ++strip)
        for (int64_t n = 0; n < batch; ++n) {
          gather_dh(plan_.time(step), n, strip, dh);
          cell_strip(step, n, strip, gates, dh, dgates);
          const int64_t* position = plan_.strips.position.data() + plan_.strips.begin[strip];
          T* frame = plan_.frame(dgates_, n, 4 * C);
          for (int64_t p = 0; p < plan_.strips.pixels(strip); ++p)
            std::copy_n(dgates + p * 4 * C, 4 * C, frame + position[p] * 4 * C);
        }
    });
  }

  // The gradient of h_t: from the output, and from the next step.
  void gather_dh(int64_t t, int64_t n, int64_t strip, T* dh) const {
    const int64_t C = plan_.layer.channels;
    const int64_t* pixel = plan_.strips.pixel.data() + plan_.strips.begin[strip];
    const T* later = dh_.data() + n * plan_.picture_state();
    for (int64_t p = 0; p < plan_.strips.pixels(strip); ++p) std::copy_n(later + pixel[p] * C, C, dh + p * C);
    if (!tensors_.grad_output.data) return;
    plan_.for_each_pixel(tensors_.grad_output, t, n, strip, [&](int64_t entry, const T* from) {
      for (int64_t c = 0; c < C; ++c) dh[entry * C + c] += from[c * tensors_.grad_output.channel];
    });
  }

  void cell_strip(int64_t step, int64_t n, int64_t strip, const T* gates, const T* dh, T* dgates) const {
    const int64_t entry = plan_.strips.begin[strip], picture = n * plan_.picture_state();
    CellBackward<T> cell;
    cell.pixels = plan_.strips.pixels(strip);
    cell.channels = plan_.layer.channels;
    cell.pixel = plan_.strips.pixel.data() + entry;
    cell.slot = plan_.strips.slot.data() + entry;
    cell.peephole_current = plan_.layer.peephole_current;
    cell.peephole = peephole_.data();
    cell.peephole_stride = plan_.picture_state();
    cell.c_previous = cells(step - 1) ? cells(step - 1) + picture : nullptr;
    cell.saved_gates = gates + 4 * picture;
    cell.c = cells(step) + picture;
    cell.dh = dh;
    cell.dc = dc_.data() + picture;
    cell.dgates = dgates;
    cell.dpeephole = dpeephole_.data();
    plan_.kernel.cell_backward(cell);
  }

  void convolve(int64_t t, bool wants_h) const {
    const int64_t strips = plan_.strips.size(), C = plan_.layer.channels;
    const int64_t rows = wants_h ? to_inputs_.rows() : plan_.padded(x_rows_);
    const Frames<T> dx = plan_.contiguous(tensors_.grad_x, plan_.layer.in_channels);
    plan_.parallel(plan_.layer.batch * strips, plan_.strip_work(), [&](int64_t begin, int64_t end) {
      const Buffer<T> buffer(kStripSlots * rows + to_inputs_.scratch());
      T *sums = buffer.data(), *scratch = sums + kStripSlots * rows;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / strips, strip = unit % strips;
        const Source<T> source{plan_.frame(dgates_, n, plan_.gates()), plan_.gates(), plan_.gates()};
        to_inputs_.run(strip, source, zeros_.data(), scratch, sums, rows);
        const int64_t entry = plan_.strips.begin[strip];
        const int64_t *pixel = plan_.strips.pixel.data() + entry, *slot = plan_.strips.slot.data() + entry;
        T* dh = dh_.data() + n * plan_.picture_state();
        for (int64_t p = 0; wants_h && p < plan_.strips.pixels(strip); ++p)
          std::copy_n(sums + slot[p] * rows + x_rows_, C, dh + pixel[p] * C);
        if (!x_rows_) continue;
        plan_.for_each_pixel(dx, t, n, strip, [&](int64_t p, T* to) {
          for (int64_t c = 0; c < x_rows_; ++c) to[c * dx.channel] = sums[slot[p] * rows + c];
        });
      }
    });
  }

  const Plan<T> plan_;
  const BackwardTensors<T>& tensors_;
  const int64_t x_rows_;
  const StripConvolution<T> to_inputs_;
  const Buffer<T> zeros_, peephole_;
  const Buffer<T> dgates_;    // frames of 4C channels
  const Buffer<T> dh_, dc_;   // [N][pixels][C]: what later steps send to this one
  const Buffer<T> c_0_;
  Buffer<T> dpeephole_;
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
