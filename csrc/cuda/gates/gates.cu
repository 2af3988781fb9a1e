// The cell of one time step, forward and backward, for pre-activations that are already in memory.
#include "cuda/gates/gates.h"

#include "cuda/common/cell_io.h"
#include "cuda/common/launch.h"
#include "cuda/gates/tile.h"

namespace pdb::cuda {
namespace {

template <class A>
struct GateStorage {
  A gates[kGateCount][kTile * kTilePitch];  // [gate][channel of the tile * kTilePitch + pixel of the tile]
  A h[kTile * kTilePitch];
};

// Loads the pre-activations of the tile into shared memory, in the order in which they lie in memory.
template <class T, class A>
__device__ __forceinline__ void load_sums(const Tile& tile, const GateSums<T>& sums, GateStorage<A>& storage) {
  tile.for_each(tile.layout == Layout::contiguous, [&](int c, int p) {
#pragma unroll
    for (int gate = 0; gate < kGateCount; ++gate) {
      const int64_t at = tile.at(4, gate, c, p);
      A sum = widen(sums.x[at]);
      if (sums.h) sum += widen(sums.h[at]);
      storage.gates[gate][c * kTilePitch + p] = sum;
    }
  });
}

template <class A>
__device__ __forceinline__ void read_sums(const GateStorage<A>& storage, int at, A (&sum)[kGateCount]) {
#pragma unroll
  for (int gate = 0; gate < kGateCount; ++gate) sum[gate] = storage.gates[gate][at];
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2)
    gates_forward_kernel(Layer layer, TilePlan plan, GateSums<T> sums, ForwardStep<T> step, T* operand) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<GateStorage<A>>();
  const Tile tile = plan.tile();
  load_sums(tile, sums, storage);
  __syncthreads();
  tile.for_each(true, [&](int c, int p) {
    const int at = c * kTilePitch + p;
    A sum[kGateCount];
    read_sums(storage, at, sum);
    const int64_t pixel = tile.pixel + p, y = quotient(pixel, layer.width);
    storage.h[at] = widen(update_cell(step, layer, tile.image, tile.channel + c, y, pixel - y * layer.width, sum));
  });
  if (!operand) return;
  __syncthreads();
  tile.for_each(false, [&](int c, int p) { narrow(storage.h[c * kTilePitch + p], operand[tile.at(1, 0, c, p)]); });
}

// The activations, saved or recomputed.
template <class T, class A>
__device__ __forceinline__ Gates<A> activations(const Layer& layer, const Tile& tile, const GateGradients<T>& gradients,
                                                const BackwardStep<T>& step, const GateStorage<A>& storage, int c,
                                                int p) {
  const int64_t C = layer.channels, channel = tile.channel + c, pixel = tile.pixel + p;
  if (step.gates)
    return read_gates<T>(step.gates + (tile.image * 4 * C + channel) * layer.pixels() + pixel, C * layer.pixels());
  const int at = c * kTilePitch + p;
  A sum[kGateCount];
  read_sums(storage, at, sum);
  Gates<A> gates = add_bias(sum, gradients.bias, C, channel);
  A cell, h;
  const int64_t y = quotient(pixel, layer.width);
  cell_forward(gates, read_peephole<A>(step.peephole, channel, y, pixel - y * layer.width),
               previous_cell(step, (tile.image * C + channel) * layer.pixels() + pixel), layer.peephole_current, cell,
               h);
  return gates;
}

template <class T, class A>
__device__ __forceinline__ void add_peephole_gradient(const Layer& layer, const BackwardStep<T>& step, const Tile& tile,
                                                      const Gates<A>& dgates, A* grad_peephole, int c, int p) {
  const int64_t plane = layer.channels * layer.pixels(), at = (tile.channel + c) * layer.pixels() + tile.pixel + p;
  const A c_previous = previous_cell(step, tile.image * plane + at);
  A* sum = grad_peephole + tile.image * kPeepholeCount * plane + at;
  sum[kGateI * plane] += dgates.i * c_previous;
  sum[kGateF * plane] += dgates.f * c_previous;
  sum[kGateO * plane] += dgates.o * (layer.peephole_current ? step.c[tile.image * plane + at] : c_previous);
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, 1)  // without the 1 ptxas saves registers that it then spills
    gates_backward_kernel(Layer layer, TilePlan plan, GateGradients<T> gradients, BackwardStep<T> step) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<GateStorage<A>>();
  const Tile tile = plan.tile();
  if (!step.gates) load_sums(tile, gradients.sums, storage);
  if (gradients.grad_h)
    tile.for_each(tile.layout == Layout::contiguous,
                  [&](int c, int p) { storage.h[c * kTilePitch + p] = widen(gradients.grad_h[tile.at(1, 0, c, p)]); });
  __syncthreads();
  tile.for_each(true, [&](int c, int p) {
    const int at = c * kTilePitch + p;
    const int64_t pixel = tile.pixel + p, y = quotient(pixel, layer.width);
    const Gates<A> gates = activations(layer, tile, gradients, step, storage, c, p);
    const Gates<A> dgates = gate_gradients(step, layer, tile.image, tile.channel + c, y, pixel - y * layer.width, gates,
                                           gradients.grad_h ? storage.h[at] : A(0), !gradients.grad_h);
    if (gradients.grad_peephole) add_peephole_gradient(layer, step, tile, dgates, gradients.grad_peephole, c, p);
    storage.gates[kGateI][at] = dgates.i;
    storage.gates[kGateF][at] = dgates.f;
    storage.gates[kGateO][at] = dgates.o;
    storage.gates[kGateG][at] = dgates.g;
  });
  __syncthreads();
  tile.for_each(tile.layout == Layout::contiguous, [&](int c, int p) {
#pragma unroll
    for (int gate = 0; gate < kGateCount; ++gate)
      narrow(storage.gates[gate][c * kTilePitch + p], gradients.grad_gates[tile.at(4, gate, c, p)]);
  });
}

}  // namespace

template <class T>
int launch_gates_forward(const Layer& layer, Layout layout, const GateSums<T>& sums, const ForwardStep<T>& step,
                         T* operand, Stream stream) {
  const TilePlan plan(layer, layout);
  return launch(gates_forward_kernel<T>, plan.blocks(layer.batch), kTileThreads, stream, layer, plan, sums, step,
                operand);
}

template <class T>
int launch_gates_backward(const Layer& layer, Layout layout, const GateGradients<T>& gradients,
                          const BackwardStep<T>& step, Stream stream) {
  const TilePlan plan(layer, layout);
  return launch(gates_backward_kernel<T>, plan.blocks(layer.batch), kTileThreads, stream, layer, plan, gradients, step);
}

#define INSTANTIATE(T)                                                                                            \
  template int launch_gates_forward(const Layer&, Layout, const GateSums<T>&, const ForwardStep<T>&, T*, Stream); \
  template int launch_gates_backward(const Layer&, Layout, const GateGradients<T>&, const BackwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
