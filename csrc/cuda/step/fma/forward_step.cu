// One time step in one launch: the convolutions over x_t and h_{t-1}, the cell, and the new state.
// A thread holds all four gates of kChannels channels at kPixels pixels, so that the cell runs in its registers.
#include "cuda/common/cell_io.h"
#include "cuda/step/fma/convolution.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kChannels = 2;                   // of a thread
constexpr int kRows = kGateCount * kChannels;  // their gates, packed as c*4 + gate
constexpr int kBlockChannels = kWarps * kChannels;
static_assert(kPackedColumns % (kWarps * kRows) == 0, "a block's columns must lie within the packed weight");

template <class T>
__global__ void __launch_bounds__(kThreads) forward_step_kernel(Layer layer, BlockPlan plan, ForwardStep<T> step) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();
  const int64_t pitch = packed_pitch(kGateCount * layer.channels), column = group * kWarps * kRows;

  A sum[kPixels][kRows] = {};
  convolve<kRows>(sum, storage, step.x + image * layer.in_channels * layer.pixels(), layer.in_channels,
                  step.weight_x + column, pitch, window);
  if (step.h_previous)
    convolve<kRows>(sum, storage, step.h_previous + image * layer.channels * layer.pixels(), layer.channels,
                    step.weight_h + column, pitch, window);

#pragma unroll
  for (int q = 0; q < kChannels; ++q) {
    const int64_t channel = group * kBlockChannels + warp() * kChannels + q;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const int64_t y = window.y + p, x = window.x + lane();
      if (channel < layer.channels && window.contains(y, x))
        update_cell(step, layer, image, channel, y, x, &sum[p][kGateCount * q]);
    }
  }
}

}  // namespace

template <class T>
int launch_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, layer.channels, kBlockChannels);
  return launch(forward_step_kernel<T>, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T) template int launch_forward_step(const Layer&, const ForwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
