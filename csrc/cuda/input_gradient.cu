// Data gradient of one of the layer's convolutions from the gate gradients: itself a convolution, with the mirrored
// and transposed weight.
#include "convolution.h"
#include "kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kRows = 8;  // input channels of a thread
constexpr int kBlockChannels = kWarps * kRows;
static_assert(kPackedColumns % kBlockChannels == 0, "a block's columns must lie within the packed weight");

template <class T, class A>
__global__ void __launch_bounds__(kThreads) input_gradient_kernel(BlockPlan plan, int64_t rows, int64_t channels,
                                                                  const A* grad_gates, const A* weight, T* grad_input) {
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();

  A sum[kPixels][kRows] = {};
  convolve<kRows>(sum, storage, grad_gates + image * rows * window.pixels(), rows, weight + group * kBlockChannels,
                  packed_pitch(channels), window);

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t channel = group * kBlockChannels + warp() * kRows + r;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const int64_t y = window.y + p, x = window.x + lane();
      if (channel < channels && window.contains(y, x))
        narrow(sum[p][r], grad_input[(image * channels + channel) * window.pixels() + y * window.width + x]);
    }
  }
}

}  // namespace

template <class T>
int launch_input_gradient(const Layer& layer, int64_t images, int64_t channels, const accumulation_t<T>* grad_gates,
                          const accumulation_t<T>* weight, T* grad_input, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, channels, kBlockChannels);
  return launch(input_gradient_kernel<T, accumulation_t<T>>, plan.blocks(images), kThreads, stream, plan,
                4 * layer.channels, channels, grad_gates, weight, grad_input);
}

#define INSTANTIATE(T)                                                                                    \
  template int launch_input_gradient(const Layer&, int64_t, int64_t, const accumulation_t<T>*,            \
                                     const accumulation_t<T>*, T*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
