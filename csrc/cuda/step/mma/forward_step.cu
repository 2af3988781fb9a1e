// One time step in one launch, like fma/forward_step.cu, with the convolutions on tensor cores. The rows of the weight
// are arranged so that the accumulators of one lane are all four gates of one channel at two pixels.
#include "cuda/common/cell_io.h"
#include "cuda/step/kernels.h"
#include "cuda/step/mma/convolution.h"

namespace pdb::cuda {
namespace {

constexpr int kM = kMmaGateBlocks;  // row blocks of a warp: i and f, then o and g, of 8 channels
constexpr int kN = 4;               // tile rows of a warp
constexpr int kChannelWarps = 4;    // 8 channels each
constexpr int kPixelWarps = kMmaTile / kN;
constexpr int kThreads = 32 * kChannelWarps * kPixelWarps;
constexpr int kBlockChannels = 8 * kChannelWarps;
static_assert(kM * kChannelWarps == kMmaGatesBlocks, "a block's row blocks must lie within the packed weight");

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    mma_forward_step_kernel(Layer layer, BlockPlan plan, ForwardStep<T> step) {
  auto& storage = shared_storage<MmaStorage>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();
  const int64_t channel_block = group * kChannelWarps + warp() % kChannelWarps, row_block = kM * channel_block;
  const int tile_row = warp() / kChannelWarps * kN;
  const auto fragments = [&](const float* weight, int64_t channels) {
    return reinterpret_cast<const Fragment*>(weight) + row_block * mma_steps<T>(channels) * layer.taps() * 32;
  };

  float sum[kM][kN][4] = {};
  mma_convolve<T>(sum, storage, step.x + image * layer.in_channels * layer.pixels(), layer.in_channels,
                  fragments(step.weight_x, layer.in_channels), window, tile_row);
  if (step.h_previous)
    mma_convolve<T>(sum, storage, step.h_previous + image * layer.channels * layer.pixels(), layer.channels,
                    fragments(step.weight_h, layer.channels), window, tile_row);

  const int64_t channel = channel_block * 8 + lane() / 4;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t y = window.y + tile_row + n, x = window.x + lane() % 4 * 2 + i;
      // Where mma_gate_row() puts the gates. (A loop makes ptxas schedule more instructions.)
      const float gates[kGateCount] = {sum[0][n][i], sum[0][n][2 + i], sum[1][n][i], sum[1][n][2 + i]};
      if (channel < layer.channels && window.contains(y, x)) update_cell(step, layer, image, channel, y, x, gates);
    }
  }
}

}  // namespace

template <class T>
int launch_mma_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, kBlockChannels);
  return launch(mma_forward_step_kernel<T>, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T) template int launch_mma_forward_step(const Layer&, const ForwardStep<T>&, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
