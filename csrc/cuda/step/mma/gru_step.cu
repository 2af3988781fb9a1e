// fma/gru_step.cu with the convolutions on tensor cores.
#include "cuda/step/gru_halves.h"
#include "cuda/step/gru_kernels.h"
#include "cuda/step/mma/gates.h"
#include "cuda/step/mma/gradients.h"

namespace pdb::cuda {
namespace {

// With two sets of channels a warp uses what it reads from shared memory twice; one set makes twice as many blocks.
template <GruHalf kHalf, int kSets>
using Warps = GateWarps<gru_gates(kHalf), 2, kSets>;

// Blocks that occupy a large GPU: two for each multiprocessor of an H100. The results have the same bits either way.
constexpr int64_t kManyBlocks = 264;

template <class T, GruHalf kHalf, int kSets>
__global__ void __launch_bounds__(Warps<kHalf, kSets>::kThreads)
    mma_gru_forward_step_kernel(Layer layer, BlockPlan plan, GruForwardStep<T> step) {
  mma_convolve_gates<Warps<kHalf, kSets>>(layer, plan, gru_operands<kHalf>(step),
                                          [&](int64_t image, int64_t channel, int64_t y, int64_t x, const float* sum) {
                                            finish_gru_forward<kHalf>(step, layer, image, channel, y, x, sum);
                                          });
}

template <class T, GruHalf kHalf, int kSets>
int launch_sets(const Layer& layer, const BlockPlan& plan, const GruForwardStep<T>& step, Stream stream) {
  return launch(mma_gru_forward_step_kernel<T, kHalf, kSets>, plan.blocks(layer.batch), Warps<kHalf, kSets>::kThreads,
                stream, layer, plan, step);
}

template <class T, GruHalf kHalf>
int launch_half(const Layer& layer, const GruForwardStep<T>& step, Stream stream) {
  const auto plan = [&](int block_channels) {
    return BlockPlan(layer, kMmaTile, kMmaTile, layer.channels, block_channels);
  };
  constexpr int kWide = Warps<kHalf, 2>::kBlockChannels;
  const BlockPlan narrow = plan(Warps<kHalf, 1>::kBlockChannels);
  // Half of a wide block must not be idle.
  if (narrow.blocks(layer.batch) > kManyBlocks && layer.channels > kWide / 2)
    return launch_sets<T, kHalf, 2>(layer, plan(kWide), step, stream);
  return launch_sets<T, kHalf, 1>(layer, narrow, step, stream);
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
  return half == GruHalf::reset ? launch_half<T, GruHalf::reset>(layer, step, stream)
                                : launch_half<T, GruHalf::update>(layer, step, stream);
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
