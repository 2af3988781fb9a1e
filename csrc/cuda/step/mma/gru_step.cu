// fma/gru_step.cu with the convolutions on tensor cores.
#include "cuda/step/gru_halves.h"
#include "cuda/step/gru_kernels.h"
#include "cuda/step/mma/gates.h"
#include "cuda/step/mma/gradients.h"

namespace pdb::cuda {
namespace {

template <GruHalf kHalf>
using Warps = GateWarps<gru_gates(kHalf), 2>;

template <GruHalf kHalf>
constexpr int kForwardChannels = Warps<kHalf>::kBlockChannels;

constexpr int kThreads = Warps<GruHalf::reset>::kThreads;
static_assert(kThreads == Warps<GruHalf::update>::kThreads, "both halves");

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kThreads)
    mma_gru_forward_step_kernel(Layer layer, BlockPlan plan, GruForwardStep<T> step) {
  mma_convolve_gates<Warps<kHalf>>(layer, plan, gru_operands<kHalf>(step),
                                   [&](int64_t image, int64_t channel, int64_t y, int64_t x, const float* sum) {
                                     finish_gru_forward<kHalf>(step, layer, image, channel, y, x, sum);
                                   });
}

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kGradientThreads)
    mma_gru_backward_step_kernel(Layer layer, BlockPlan plan, GruBackwardStep<T> step) {
  const GruConvolved<T> convolved = gru_convolved<kHalf>(step, layer);
  convolve_gradients<T>(
      plan, convolved.rows, kGruGateCount * layer.channels, layer.channels, convolved.grad_gates ? 1 : 0,
      [&](int) { return DataGradient<T>{convolved.grad_gates, convolved.weight, layer.dilation}; },
      [&](int64_t channel, int64_t y, int64_t x, float sum) {
        finish_gru_backward<kHalf>(step, layer, plan.image(), channel, y, x, sum);
      });
}

}  // namespace

template <class T>
int launch_mma_gru_forward(const Layer& layer, GruHalf half, const GruForwardStep<T>& step, Stream stream) {
  const auto launch_half = [&](auto kernel, int block_channels) {
    const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, block_channels);
    return launch(kernel, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
  };
  return half == GruHalf::reset
             ? launch_half(mma_gru_forward_step_kernel<T, GruHalf::reset>, kForwardChannels<GruHalf::reset>)
             : launch_half(mma_gru_forward_step_kernel<T, GruHalf::update>, kForwardChannels<GruHalf::update>);
}

template <class T>
int launch_mma_gru_backward(const Layer& layer, GruHalf half, const GruBackwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, kGradientChannels);
  const auto kernel = half == GruHalf::reset ? mma_gru_backward_step_kernel<T, GruHalf::reset>
                                             : mma_gru_backward_step_kernel<T, GruHalf::update>;
  return launch(kernel, plan.blocks(layer.batch), kGradientThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T)                                                                          \
  template int launch_mma_gru_forward(const Layer&, GruHalf, const GruForwardStep<T>&, Stream); \
  template int launch_mma_gru_backward(const Layer&, GruHalf, const GruBackwardStep<T>&, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
