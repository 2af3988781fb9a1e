// The layer's convolutions computed by PyTorch, with "same" zero padding, deterministic.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/_convolution.h>
#include <ATen/ops/convolution_backward.h>

#include <array>
#include <mutex>

namespace pdb::cuda {

// While any of these exists, cuDNN chooses among its deterministic algorithms only, and by rule rather than by timing.
// For convolution_backward, which reads PyTorch's settings and has no arguments for this.
class DeterministicCudnn {
 public:
  DeterministicCudnn() {
    const std::lock_guard<std::mutex> lock(mutex());
    if (users()++ > 0) return;
    at::Context& context = at::globalContext();
    before() = {context.deterministicCuDNN(), context.benchmarkCuDNN()};
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
  }
  ~DeterministicCudnn() {
    const std::lock_guard<std::mutex> lock(mutex());
    if (--users() > 0) return;
    at::globalContext().setDeterministicCuDNN(before()[0]);
    at::globalContext().setBenchmarkCuDNN(before()[1]);
  }
  DeterministicCudnn(const DeterministicCudnn&) = delete;
  DeterministicCudnn& operator=(const DeterministicCudnn&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex value;
    return value;
  }
  static int& users() {
    static int value = 0;
    return value;
  }
  static std::array<bool, 2>& before() {
    static std::array<bool, 2> value;
    return value;
  }
};

struct AtenConvolution {
  int64_t padding, dilation;
  at::MemoryFormat format;
  bool allow_tf32;

  // input (images, channels, H, W) and weight (4C, channels, k, k) in `format` -> (images, 4C, H, W) in `format`
  at::Tensor forward(const at::Tensor& input, const at::Tensor& weight) const { return run(input, weight, false); }

  // grad (images, 4C, H, W) -> the gradient of the input
  at::Tensor data_gradient(const at::Tensor& grad, const at::Tensor& weight) const { return run(grad, weight, true); }

  // Summed over all images.
  at::Tensor weight_gradient(const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight) const {
    const DeterministicCudnn deterministic;
    return std::get<1>(at::convolution_backward(grad, input, weight, at::OptionalIntArrayRef(), {1, 1},
                                                {padding, padding}, {dilation, dilation}, false, {0, 0}, 1,
                                                {false, true, false}));
  }

 private:
  at::Tensor run(const at::Tensor& input, const at::Tensor& weight, bool transposed) const {
    const bool enabled = at::globalContext().userEnabledCuDNN();
    return at::_convolution(input, weight, {}, {1, 1}, {padding, padding}, {dilation, dilation}, transposed, {0, 0}, 1,
                            /*benchmark=*/false, /*deterministic=*/true, enabled, allow_tf32)
        .contiguous(format);
  }
};

}  // namespace pdb::cuda
