// Data gradient of the layer's convolutions from the gate gradients: itself a convolution, with the mirrored and
// transposed weight. The gradients of several convolutions of one input are summed in registers.
#include "cuda/step/fma/convolution.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kRows = 8;  // input channels of a thread
constexpr int kBlockChannels = kWarps * kRows;
static_assert(kPackedColumns % kBlockChannels == 0, "a block's columns must lie within the packed weight");

template <class T>
__global__ void __launch_bounds__(kThreads, 2)
    input_gradient_kernel(BlockPlan plan, int64_t rows, int64_t channels,
                          const __grid_constant__ DataGradients<T> gradients, T* grad_input) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();

  A sum[kPixels][kRows] = {};
  for (int part = 0; part < gradients.count; ++part) {
    const DataGradient<T>& gradient = gradients.parts[part];
    window.dilation = gradient.dilation;
    convolve<kRows>(sum, storage, gradient.grad_gates + image * rows * window.pixels(), rows,
                    gradient.weight + group * kBlockChannels, packed_pitch(channels), window);
  }

  for_each_output<1>(window, sum, group * kBlockChannels, channels,
                     [&](int64_t channel, int64_t y, int64_t x, const A* own) {
                       const int64_t at = (image * channels + channel) * window.pixels() + y * window.width + x;
                       grad_input[at] = narrowed<T>(gradients.before ? *own + widen(gradients.before[at]) : *own);
                     });
}

}  // namespace

template <class T>
int launch_input_gradient(const Layer& layer, int64_t images, int64_t rows, int64_t channels,
                          const DataGradients<T>& gradients, T* grad_input, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, channels, kBlockChannels);
  return launch(input_gradient_kernel<T>, plan.blocks(images), kThreads, stream, plan, rows, channels, gradients,
                grad_input);
}

#define INSTANTIATE(T) \
  template int launch_input_gradient(const Layer&, int64_t, int64_t, int64_t, const DataGradients<T>&, T*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
