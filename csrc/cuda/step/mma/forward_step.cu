// One time step in one launch, like fma/forward_step.cu, with the convolutions on tensor cores.
#include "cuda/common/cell_io.h"
#include "cuda/step/kernels.h"
#include "cuda/step/mma/gates.h"

namespace pdb::cuda {
namespace {

using Warps = GateWarps<kGateCount, 4>;

template <class T>
__global__ void __launch_bounds__(Warps::kThreads, 2)
    mma_forward_step_kernel(Layer layer, BlockPlan plan, ForwardStep<T> step) {
  mma_convolve_gates<Warps>(layer, plan, GateOperands<T>{step.x, step.weight_x, step.h_previous, step.weight_h},
                            [&](int64_t image, int64_t channel, int64_t y, int64_t x, const float* gates) {
                              update_cell(step, layer, image, channel, y, x, gates);
                            });
}

}  // namespace

template <class T>
int launch_mma_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kMmaTile, kMmaTile, layer.channels, Warps::kBlockChannels);
  return launch(mma_forward_step_kernel<T>, plan.blocks(layer.batch), Warps::kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T) template int launch_mma_forward_step(const Layer&, const ForwardStep<T>&, Stream);
PDB_FOR_EACH_MMA_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
