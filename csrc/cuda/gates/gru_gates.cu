// See gru_gates.h.
#include "cuda/gates/gru_gates.h"

#include "cuda/common/gru_cell_io.h"
#include "cuda/gates/tile.h"

namespace pdb::cuda {
namespace {

// Two arrays of a tile: [array][channel of the tile * kTilePitch + pixel of the tile].
template <class A>
struct GruStorage {
  A value[2][kTile * kTilePitch];
};

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kTileThreads, 2)
    gru_gates_forward_kernel(Layer layer, TilePlan plan, GateSums<T> sums, GruForwardStep<T> step, T* operand) {
  using A = accumulation_t<T>;
  constexpr int kGates = gru_gates(kHalf), kFirst = gru_first_gate(kHalf);
  auto& storage = shared_storage<GruStorage<A>>();
  const Tile tile = plan.tile();
  const bool pixels_first = tile.layout == Layout::contiguous;
  tile.for_each(pixels_first, [&](int c, int p) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      A sum = widen(sums.x[tile.at(kGruGateCount, kFirst + gate, c, p)]);
      if (sums.h) sum += widen(sums.h[tile.at(kGates, gate, c, p)]);
      storage.value[gate][c * kTilePitch + p] = sum;
    }
  });
  __syncthreads();
  tile.for_each(true, [&](int c, int p) {
    A* const own = &storage.value[0][c * kTilePitch + p];
    A sum[kGates];
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) sum[gate] = own[gate * kTile * kTilePitch];
    *own = widen(gru_forward_half<kHalf>(step, layer, tile.image, tile.channel + c, tile.pixel + p, sum));
  });
  if (!operand) return;
  __syncthreads();
  tile.for_each(pixels_first,
                [&](int c, int p) { narrow(storage.value[0][c * kTilePitch + p], operand[tile.at(1, 0, c, p)]); });
}

template <class T, GruHalf kHalf>
__global__ void __launch_bounds__(kTileThreads, 2)
    gru_gates_backward_kernel(Layer layer, TilePlan plan, GruHalfGradients<T> gradients, GruBackwardStep<T> step) {
  using A = accumulation_t<T>;
  auto& storage = shared_storage<GruStorage<A>>();
  const Tile tile = plan.tile();
  const bool pixels_first = tile.layout == Layout::contiguous;
  if (gradients.grad)
    tile.for_each(pixels_first, [&](int c, int p) {
      storage.value[0][c * kTilePitch + p] = widen(gradients.grad[tile.at(1, 0, c, p)]);
    });
  __syncthreads();
  tile.for_each(true, [&](int c, int p) {
    A &first = storage.value[0][c * kTilePitch + p], &second = storage.value[1][c * kTilePitch + p];
    const GruPlace at(layer, tile.image, tile.channel + c, tile.pixel + p);
    if constexpr (kHalf == GruHalf::update) {
      const A dh = gru_state_gradient(step, at, gradients.grad ? first : A(0), !gradients.grad);
      gru_update_gradients(step, at, dh, first, second);
    } else {
      first = gru_reset_gradient(step, at, first, second);
    }
  });
  __syncthreads();
  tile.for_each(pixels_first, [&](int c, int p) {
    const int gate = kHalf == GruHalf::update ? kGateZ : kGateR;
    narrow(storage.value[0][c * kTilePitch + p], gradients.grad_reset[tile.at(2, gate, c, p)]);
    T* const other = kHalf == GruHalf::update ? gradients.grad_update : gradients.rh;
    if (other) narrow(storage.value[1][c * kTilePitch + p], other[tile.at(1, 0, c, p)]);
  });
}

}  // namespace

template <class T>
int launch_gru_gates_forward(const Layer& layer, Layout layout, GruHalf half, const GateSums<T>& sums,
                             const GruForwardStep<T>& step, T* operand, Stream stream) {
  const TilePlan plan(layer, layout);
  const auto kernel = half == GruHalf::reset ? gru_gates_forward_kernel<T, GruHalf::reset>
                                             : gru_gates_forward_kernel<T, GruHalf::update>;
  return launch(kernel, plan.blocks(layer.batch), kTileThreads, stream, layer, plan, sums, step, operand);
}

template <class T>
int launch_gru_gates_backward(const Layer& layer, Layout layout, GruHalf half, const GruHalfGradients<T>& gradients,
                              const GruBackwardStep<T>& step, Stream stream) {
  const TilePlan plan(layer, layout);
  const auto kernel = half == GruHalf::reset ? gru_gates_backward_kernel<T, GruHalf::reset>
                                             : gru_gates_backward_kernel<T, GruHalf::update>;
  return launch(kernel, plan.blocks(layer.batch), kTileThreads, stream, layer, plan, gradients, step);
}

#define INSTANTIATE(T)                                                                                               \
  template int launch_gru_gates_forward(const Layer&, Layout, GruHalf, const GateSums<T>&, const GruForwardStep<T>&, \
                                        T*, Stream);                                                                 \
  template int launch_gru_gates_backward(const Layer&, Layout, GruHalf, const GruHalfGradients<T>&,                  \
                                         const GruBackwardStep<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
