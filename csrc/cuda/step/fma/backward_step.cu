// One step of backward through time in one launch: the gradient of h_t through the recurrent convolution of the step
// that ran after it, then the gradients of the gates and of c_{t-1}.
#include "cuda/common/cell_io.h"
#include "cuda/step/fma/convolution.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kRows = 4;  // channels of a thread; few, so that small layers still fill the GPU with blocks
constexpr int kBlockChannels = kWarps * kRows;
static_assert(kPackedColumns % kBlockChannels == 0, "a block's columns must lie within the packed weight");

template <class T>
__global__ void __launch_bounds__(kThreads, 1) backward_step_kernel(Layer layer, BlockPlan plan, BackwardStep<T> step) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<ConvolutionStorage<A, kRows>>();
  const Window window = plan.window();
  const int64_t image = plan.image(), group = plan.group();

  A sum[kPixels][kRows] = {};
  if (step.grad_gates_next)
    convolve<kRows>(sum, storage, step.grad_gates_next + image * 4 * layer.channels * layer.pixels(),
                    4 * layer.channels, step.weight_h + group * kBlockChannels, packed_pitch(layer.channels), window);

  for_each_output<1>(window, sum, group * kBlockChannels, layer.channels,
                     [&](int64_t channel, int64_t y, int64_t x, const A* dh) {
                       update_gradients(step, layer, image, channel, y, x, *dh);
                     });
}

}  // namespace

template <class T>
int launch_backward_step(const Layer& layer, const BackwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, layer.channels, kBlockChannels);
  return launch(backward_step_kernel<T>, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T) template int launch_backward_step(const Layer&, const BackwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
