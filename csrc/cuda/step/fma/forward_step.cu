// One time step in one launch: the convolutions over x_t and h_{t-1}, the cell, and the new state.
#include "cuda/common/cell_io.h"
#include "cuda/step/fma/gates.h"
#include "cuda/step/kernels.h"

namespace pdb::cuda {
namespace {

constexpr int kChannels = 2;  // of a thread

template <class T>
__global__ void __launch_bounds__(kThreads) forward_step_kernel(Layer layer, BlockPlan plan, ForwardStep<T> step) {
  convolve_gates<kGateCount, kChannels>(
      layer, plan, GateOperands<T>{step.x, step.weight_x, step.h_previous, step.weight_h},
      [&](int64_t image, int64_t channel, int64_t y, int64_t x, const accumulation_t<T>* sum) {
        update_cell(step, layer, image, channel, y, x, sum);
      });
}

}  // namespace

template <class T>
int launch_forward_step(const Layer& layer, const ForwardStep<T>& step, Stream stream) {
  const BlockPlan plan(layer, kTileHeight, kTileWidth, layer.channels, kGateBlockChannels<kChannels>);
  return launch(forward_step_kernel<T>, plan.blocks(layer.batch), kThreads, stream, layer, plan, step);
}

#define INSTANTIATE(T) template int launch_forward_step(const Layer&, const ForwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
