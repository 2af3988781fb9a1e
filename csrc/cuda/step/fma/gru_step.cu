// The halves of a ConvGRU's step, each in one launch, by fused multiply-adds.
#include "cuda/step/fma/gates.h"
#include "cuda/step/gru_halves.h"
#include "cuda/step/gru_kernels.h"

namespace pdb::cuda {
namespace {

template <GruHalf kHalf>
constexpr int kChannels = kHalf == GruHalf::reset ? 2 : 4;  // of a thread, so that it has 4 rows

template <GruHalf kHalf>
constexpr int kForwardChannels = kGateBlockChannels<kChannels<kHalf>>;

constexpr int kRows = 4;  // channels of a thread, backward
constexpr int kBackwardChannels = kWarps * kRows;
static_assert(kPackedColumns % kBackwardChannels == 0, "a block's columns must lie within the packed weight");

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 ptxas saves registers that it then spills
    gru_forward_step_kernel(Layer layer, BlockPlan plan, GruForwardStep<T> step) {
  convolve_gates<gru_gates(kHalf), kChannels<kHalf>>(
      layer, plan, gru_operands<kHalf>(step),
      [&](int64_t image, int64_t channel, int64_t y, int64_t x, const accumulation_t<T>* sum) {
        finish_gru_forward<kHalf>(step, layer, image, channel, y, x, sum);
      });
}

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kThreads, 1)
    gru_backward_step_kernel(Layer layer, BlockPlan plan, GruBackwardStep<T> step) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();
  const GruConvolved<T> convolved = gru_convolved<kHalf>(step, layer);

  A sum[kPixels][kRows] = {};
  if (convolved.grad_gates)
    convolve<kRows>(sum, storage, convolved.grad_gates + image * kGruGateCount * layer.channels * layer.pixels(),
                    convolved.rows, convolved.weight + group * kBackwardChannels, packed_pitch(layer.channels), window);
  for_each_output<1>(window, sum, group * kBackwardChannels, layer.channels,
                     [&](int64_t channel, int64_t y, int64_t x, const A* own) {
                       finish_gru_backward<kHalf>(step, layer, image, channel, y, x, *own);
                     });
}

}  // namespace

template <class T>
int launch_gru_forward(const Layer& layer, GruHalf half, const GruForwardStep<T>& step, Stream stream) {
  const auto launch_half = [&](auto kernel, int block_channels) {
    const BlockPlan plan(layer, kTileHeight, kTileWidth, layer.channels, block_channels);
    return launch(kernel, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
  };
  return half == GruHalf::reset
             ? launch_half(gru_forward_step_kernel<T, GruHalf::reset>, kForwardChannels<GruHalf::reset>)
             : launch_half(gru_forward_step_kernel<T, GruHalf::update>, kForwardChannels<GruHalf::update>);
}

template <class T>
int launch_gru_backward(const Layer& layer, GruHalf half, const GruBackwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, layer.channels, kBackwardChannels);
  const auto kernel = half == GruHalf::reset ? gru_backward_step_kernel<T, GruHalf::reset>
                                             : gru_backward_step_kernel<T, GruHalf::update>;
  return launch(kernel, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T)                                                                      \
  template int launch_gru_forward(const Layer&, GruHalf, const GruForwardStep<T>&, Stream); \
  template int launch_gru_backward(const Layer&, GruHalf, const GruBackwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
