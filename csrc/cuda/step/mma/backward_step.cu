// fma/backward_step.cu and fma/input_gradient.cu with the convolution of the gate gradients on tensor cores. The gate
// gradients are rounded to T as operands.
#include "cuda/common/cell_io.h"
#include "cuda/step/kernels.h"
#include "cuda/step/mma/gradients.h"

namespace pdb::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kGradientThreads)
    mma_backward_step_kernel(Layer layer, BlockPlan plan, BackwardStep<T> step) {
  const auto recurrent = [&](int) { return DataGradient<T>{step.grad_gates_next, step.weight_h, layer.dilation}; };
  convolve_gradients<T>(plan, 4 * layer.channels, 4 * layer.channels, layer.channels, step.grad_gates_next ? 1 : 0,
                        recurrent, [&](int64_t channel, int64_t y, int64_t x, float dh) {
                          update_gradients(step, layer, plan.image(), channel, y, x, dh);
                        });
}

template <class T>
__global__ void __launch_bounds__(kGradientThreads)
    mma_input_gradient_kernel(BlockPlan plan, int64_t rows, int64_t channels,
                              const __grid_constant__ DataGradients<T> gradients, T* grad_input) {
  convolve_gradients<T>(
      plan, rows, rows, channels, gradients.count, [&](int i) { return gradients.parts[i]; },
      [&](int64_t channel, int64_t y, int64_t x, float sum) {
        const int64_t row = (plan.image() * channels + channel) * plan.height + y;
        const int64_t at = row * plan.width + x;
        grad_input[at] = narrowed<T>(gradients.before ? sum + widen(gradients.before[at]) : sum);
      });
}

}  // namespace

template <class T>
int launch_mma_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, kGradientChannels);
  return launch(mma_backward_step_kernel<T>, plan.blocks(layer.batch), kGradientThreads, stream, layer, plan, step);
}

template <class T>
int launch_mma_input_gradient(const Layer& layer, int64_t images, int64_t rows, int64_t channels,
                              const DataGradients<T>& gradients, T* grad_input, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, channels, kGradientChannels);
  return launch(mma_input_gradient_kernel<T>, plan.blocks(images), kGradientThreads, stream, plan, rows, channels,
                gradients, grad_input);
}

#define INSTANTIATE(T)                                                                 \
  template int launch_mma_backward_step(const Layer&, const BackwardStep<T>&, Stream); \
  template int launch_mma_input_gradient(const Layer&, int64_t, int64_t, int64_t, const DataGradients<T>&, T*, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
