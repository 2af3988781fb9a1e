// The ConvGRU's forward pass. A step is two parallel loops over strips of pixels, as the convolution of n reads r . h
// at the neighbours: that of r and z over x and h, then that of n over x and r . h, each followed by its half of the
// cell while the pre-activations are in the cache.
#include "cpu/gru_layer.h"
#include "cpu/strip_convolution.h"

namespace pdb::cpu {
namespace {

template <class T>
class GruForwardPass {
 public:
  GruForwardPass(const Layer& layer, const GruForwardTensors<T>& tensors, const Threads& threads)
      : plan_(layer, threads, kGruGateCount),
        tensors_(tensors),
        of_r_z_(convolution(kGateR, 2)),
        of_n_(convolution(kGateN, 1)),
        bias_r_z_(bias(kGateR, 2, of_r_z_)),
        bias_n_(bias(kGateN, 1, of_n_)),
        h_frames_(plan_.frames(plan_.inputs())),
        reset_frames_(plan_.frames(plan_.inputs())),
        gates_(tensors.gates ? 0 : kGruGateCount * plan_.state()) {}

  void run() const {
    const Layer& layer = plan_.layer;
    if (tensors_.h_0) plan_.to_frames(plan_.states(tensors_.h_0), 0, layer.channels, layer.in_channels, h_frames_);
    plan_.to_frames(tensors_.x, layer.frame(0), layer.in_channels, 0, h_frames_);
    for (int64_t step = 0; step < layer.steps; ++step) {
      const bool has_h = step > 0 || tensors_.h_0;  // else it is zero, and needs no convolution
      // Meanwhile x comes in for the loop that follows, and the last step's h goes out.
      run_half(of_r_z_, bias_r_z_, h_frames_, reset_frames_, step, has_h, plan_.kernel.gru_reset,
               [&](int64_t n, int64_t y) {
                 load_x(reset_frames_, step, n, y);
                 if (step > 0) emit_row(step - 1, n, y);
               });
      run_half(of_n_, bias_n_, reset_frames_, h_frames_, step, has_h, plan_.kernel.gru_update,
               [&](int64_t n, int64_t y) {
                 if (step + 1 < layer.steps) load_x(h_frames_, step + 1, n, y);
               });
    }
    plan_.parallel_rows(layer.channels, [&](int64_t n, int64_t y) { emit_row(layer.steps - 1, n, y); });
  }

 private:
  StripConvolution<T> convolution(int64_t gate, int64_t count) const {
    const int64_t C = plan_.layer.channels;
    return StripConvolution<T>::forward(plan_, plan_.weights(tensors_.weight_x, tensors_.weight_h, gate * C),
                                        count * C);
  }
  Buffer<T> bias(int64_t gate, int64_t count, const StripConvolution<T>& convolution) const {
    const int64_t C = plan_.layer.channels;
    Buffer<T> result = Buffer<T>::zeros(convolution.rows());
    if (tensors_.bias) std::copy_n(tensors_.bias + gate * C, count * C, result.data());
    return result;
  }

  template <class MoveRow>
  void run_half(const StripConvolution<T>& convolution, const Buffer<T>& bias, const Buffer<T>& from,
                const Buffer<T>& to, int64_t step, bool has_h, void (*cell)(const GruForward<T>&),
                const MoveRow& move_row) const {
    const int64_t inputs = plan_.inputs();
    convolution.run({from, inputs, 0, has_h ? inputs : plan_.layer.in_channels}, bias.data(),
                    [&](int64_t n, int64_t strip, const T* sums) {
                      cell(arguments(step, n, strip, has_h, sums, convolution.rows(), to));
                      plan_.for_rows_of_strip(strip, [&](int64_t y) { move_row(n, y); });
                    });
  }

  GruForward<T> arguments(int64_t step, int64_t n, int64_t strip, bool has_h, const T* sums, int64_t stride,
                          const Buffer<T>& to) const {
    T* gates =
        tensors_.gates ? tensors_.gates + kGruGateCount * plan_.layer.frame(step) * plan_.state() : gates_.data();
    const T* h = plan_.frame(h_frames_, n, plan_.inputs()) + plan_.layer.in_channels;
    GruForward<T> cell;
    static_cast<StripPixels&>(cell) = plan_.strip_pixels(strip);
    cell.sums = sums;
    cell.sums_stride = stride;
    cell.h_previous = has_h ? h : nullptr;
    cell.result = plan_.frame(to, n, plan_.inputs()) + plan_.layer.in_channels;
    cell.stride = plan_.inputs();
    cell.gates = gates + kGruGateCount * n * plan_.picture_state();
    cell.saves_all = tensors_.gates;
    return cell;
  }

  void load_x(const Buffer<T>& frames, int64_t step, int64_t n, int64_t y) const {
    plan_.row_to_frame(tensors_.x, plan_.layer.frame(step), n, y, plan_.layer.in_channels, 0, frames);
  }
  void emit_row(int64_t step, int64_t n, int64_t y) const {
    const T* h = plan_.frame(h_frames_, n, plan_.inputs()) + plan_.layer.in_channels;
    plan_.row_from_pixels(h + plan_.grid.position(y, 0) * plan_.inputs(), plan_.inputs(), plan_.layer.channels,
                          tensors_.output, plan_.layer.frame(step), n, y);
  }

  const Plan<T> plan_;
  const GruForwardTensors<T>& tensors_;
  const StripConvolution<T> of_r_z_, of_n_;
  const Buffer<T> bias_r_z_, bias_n_;
  const Buffer<T> h_frames_;      // x_t and h_{t-1}, which becomes h_t in place
  const Buffer<T> reset_frames_;  // x_t and r_t . h_{t-1}
  const Buffer<T> gates_;         // [N][pixels][3C], of a step, where they are not saved
};

}  // namespace

template <class T>
void gru_forward(const Layer& layer, const GruForwardTensors<T>& tensors, const Threads& threads) {
  if (layer.batch > 0) GruForwardPass<T>(layer, tensors, threads).run();
}
template void gru_forward(const Layer&, const GruForwardTensors<float>&, const Threads&);
template void gru_forward(const Layer&, const GruForwardTensors<double>&, const Threads&);

}  // namespace pdb::cpu
