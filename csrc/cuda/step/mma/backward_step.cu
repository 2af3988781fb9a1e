// fma/backward_step.cu and fma/input_gradient.cu with the convolution of the gate gradients on tensor cores. The gate
// gradients are rounded to T as operands.
#include "cuda/common/cell_io.h"
#include "cuda/step/kernels.h"
#include "cuda/step/mma/convolution.h"

namespace pdb::cuda {
namespace {

constexpr int kM = 1, kN = 4;  // row blocks of 16 channels, and tile rows, of a warp
constexpr int kChannelWarps = 2;
constexpr int kPixelWarps = kMmaTile / kN;
constexpr int kThreads = 32 * kChannelWarps * kPixelWarps;
constexpr int kBlockChannels = kMmaRows * kChannelWarps;
static_assert(kM * kChannelWarps == kMmaTransposedBlocks, "a block's row blocks must lie within the packed weight");

// Calls use(channel, y, x, sum) for every element of the data gradient that this thread computed. part(i): the i-th of
// `count` convolutions.
template <class T, class Part, class Use>
__device__ __forceinline__ void convolve_gradients(const BlockPlan& plan, int64_t rows, int64_t channels, int count,
                                                   const Part& part, const Use& use) {
  auto& storage = shared_storage<MmaStorage>();
  Window window = plan.window();
  const int64_t row_block = plan.group() * kChannelWarps + warp() % kChannelWarps;
  const int tile_row = warp() / kChannelWarps * kN;
  float sum[kM][kN][4] = {};
  for (int i = 0; i < count; ++i) {
    const DataGradient<T> gradient = part(i);
    window.dilation = gradient.dilation;
    mma_convolve<T>(sum, storage, gradient.grad_gates + plan.image() * rows * window.pixels(), rows,
                    reinterpret_cast<const Fragment*>(gradient.weight) +
                        row_block * mma_steps<T>(rows) * window.kernel * window.kernel * 32,
                    window, tile_row);
  }
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t channel = row_block * kMmaRows + lane() / 4 + i / 2 * 8;
      const int64_t y = window.y + tile_row + n, x = window.x + lane() % 4 * 2 + i % 2;
      if (channel < channels && window.contains(y, x)) use(channel, y, x, sum[0][n][i]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mma_backward_step_kernel(Layer layer, BlockPlan plan, BackwardStep<T> step) {
  const auto recurrent = [&](int) { return DataGradient<T>{step.grad_gates_next, step.weight_h, layer.dilation}; };
  convolve_gradients<T>(plan, 4 * layer.channels, layer.channels, step.grad_gates_next ? 1 : 0, recurrent,
                        [&](int64_t channel, int64_t y, int64_t x, float dh) {
                          update_gradients(step, layer, plan.image(), channel, y, x, dh);
                        });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mma_input_gradient_kernel(BlockPlan plan, int64_t rows, int64_t channels,
                              const __grid_constant__ DataGradients<T> gradients, T* grad_input) {
  convolve_gradients<T>(
      plan, rows, channels, gradients.count, [&](int i) { return gradients.parts[i]; },
      [&](int64_t channel, int64_t y, int64_t x, float sum) {
        const int64_t row = (plan.image() * channels + channel) * plan.height + y;
        const int64_t at = row * plan.width + x;
        grad_input[at] = narrowed<T>(gradients.before ? sum + widen(gradients.before[at]) : sum);
      });
}

}  // namespace

template <class T>
int launch_mma_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, kBlockChannels);
  return launch(mma_backward_step_kernel<T>, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

template <class T>
int launch_mma_input_gradient(const Layer& layer, int64_t images, int64_t channels, const DataGradients<T>& gradients,
                              T* grad_input, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, channels, kBlockChannels);
  return launch(mma_input_gradient_kernel<T>, plan.blocks(images), kThreads, stream, plan, 4 * layer.channels, channels,
                gradients, grad_input);
}

#define INSTANTIATE(T)                                                                 \
  template int launch_mma_backward_step(const Layer&, const BackwardStep<T>&, Stream); \
  template int launch_mma_input_gradient(const Layer&, int64_t, int64_t, const DataGradients<T>&, T*, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
