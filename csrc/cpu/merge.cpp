// The merge of the two directions, Eq. 5: h_f and h_b of a frame lie side by side as x and h do in a layer, so that one
// convolution adds both; the tanh follows while the sums are in the cache.
#include "cpu/strip_convolution.h"

namespace pdb::cpu {
namespace {

template <class T>
class Merge {
 public:
  Merge(const Layer& layer, const MergeTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads),
        tensors_(tensors),
        convolution_(
            StripConvolution<T>::forward(plan_, plan_.weights(tensors.weight_f, tensors.weight_b), layer.channels)),
        bias_(Buffer<T>::zeros(convolution_.rows())),
        frames_{plan_.frames(plan_.inputs()), plan_.frames(plan_.inputs())},
        merged_{Buffer<T>(plan_.state()), Buffer<T>(plan_.state())} {
    if (tensors.bias) std::copy_n(tensors.bias, layer.channels, bias_.data());
  }

  void run() const {
    const int64_t steps = plan_.layer.steps;
    plan_.parallel_rows(plan_.inputs(), [&](int64_t n, int64_t y) { load_row(0, n, y); });
    for (int64_t t = 0; t < steps; ++t) run_frame(t);
    plan_.parallel_rows(plan_.layer.channels, [&](int64_t n, int64_t y) { emit_row(steps - 1, n, y); });
  }

 private:
  // Meanwhile the rows of the next frame come in and those of the last go out.
  void run_frame(int64_t t) const {
    const int64_t inputs = plan_.inputs();
    convolution_.run({frames_[t % 2], inputs, 0, inputs}, bias_.data(), [&](int64_t n, int64_t strip, const T* sums) {
      const int64_t entry = plan_.strips.begin[strip];
      plan_.kernel.tanh(sums, convolution_.rows(), plan_.strips.slot.data() + entry, plan_.strips.pixel.data() + entry,
                        plan_.strips.pixels(strip), plan_.layer.channels,
                        merged_[t % 2].data() + n * plan_.picture_state());
      plan_.for_rows_of_strip(strip, [&](int64_t y) {
        if (t + 1 < plan_.layer.steps) load_row(t + 1, n, y);
        if (t > 0) emit_row(t - 1, n, y);
      });
    });
  }

  void load_row(int64_t t, int64_t n, int64_t y) const {
    const int64_t C = plan_.layer.channels;
    plan_.row_to_frame(tensors_.h_f, t, n, y, C, 0, frames_[t % 2]);
    plan_.row_to_frame(tensors_.h_b, t, n, y, C, C, frames_[t % 2]);
  }

  void emit_row(int64_t t, int64_t n, int64_t y) const {
    const int64_t C = plan_.layer.channels;
    const T* row = merged_[t % 2].data() + n * plan_.picture_state() + y * plan_.layer.width * C;
    plan_.row_from_pixels(row, C, C, tensors_.output, t, n, y);
  }

  const Plan<T> plan_;
  const MergeTensors<T>& tensors_;
  const StripConvolution<T> convolution_;
  const Buffer<T> bias_;
  const Buffer<T> frames_[2];  // h_f and h_b of frame t in [t % 2]
  const Buffer<T> merged_[2];  // [N][pixels][C]
};

}  // namespace

template <class T>
void merge(const Layer& layer, const MergeTensors<T>& tensors, const Threads& threads) {
  if (layer.batch > 0) Merge<T>(layer, tensors, threads).run();
}
template void merge(const Layer&, const MergeTensors<float>&, const Threads&);
template void merge(const Layer&, const MergeTensors<double>&, const Threads&);

}  // namespace pdb::cpu
