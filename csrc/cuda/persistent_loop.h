// The loop of the persistent kernels, forward and backward alike. A step is two convolutions and a cell: the side
// convolution, over what is known before the step (x forward, the gate gradients of the layer behind backward), and the
// recurrent one, over what the neighbours computed a step ago (h forward, gate gradients backward).
//
// A block keeps its recurrent weight and its own tile in shared memory and its cells in registers. A step's result goes
// to the neighbours through a buffer in the order in which they read it; two slots are enough, since nobody gets a step
// ahead of whom it waits for. Only then is it stored where the caller wants it, and the side convolution of the next step
// is done: both hide the time that the flags and the halo take. Flags grow by one a step, by T a layer, from zero.
#pragma once

#include "persistent.h"
#include "persistent_core.h"

namespace pdb::cuda {

// How a layer hangs together with the others of its launch.
struct Link {
  const Chunk* recurrent_weight;  // packed, of all groups
  const Chunk* side_weight;       // null: no side convolution
  int64_t side_channels;          // of the side input, as it is stored
  int side_chunks, dilation;
  bool flip;  // the steps of this launch go from frame T-1 to 0
};

template <class Policy>
struct PersistentArguments {
  PersistentShape shape;
  Link links[kMaxPersistentLayers];
  typename Policy::Tensors tensors[kMaxPersistentLayers];
  Chunk* exchange;     // (2, chains, N, H, W, recurrent chunks)
  int64_t slot;        // chunks of one of the two
  uint32_t* flags;     // one a block, zero at first
};

// The block's shared memory.
struct PersistentStorage {
  Chunk *recurrent_weight, *side_weight, *window, *side_window;

  __device__ PersistentStorage(const PersistentShape& shape, int weight_chunks) {
    recurrent_weight = reinterpret_cast<Chunk*>(dynamic_shared_memory());
    side_weight = recurrent_weight + shape.recurrent_chunks * weight_chunks;
    window = side_weight + shape.side_chunks * weight_chunks;
    side_window = window + shape.window_chunks;
  }
};

__device__ __forceinline__ void copy_chunks(Chunk* target, const Chunk* source, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) target[i] = source[i];
}

// sum += the side convolution, a few chunks of depth at a time.
template <class Policy>
__device__ __forceinline__ void side_convolution(typename Policy::Core::Sum& sum, const Policy& policy, const Link& link,
                                                 const PersistentStorage& storage, const PersistentShape& shape,
                                                 const Place& place, int radius, int t) {
  using Core = typename Policy::Core;
  const int side = kTile + 2 * radius, pitch = chunk_pitch(Core::kSideChunks);
  const auto* image = policy.side() + (int64_t(t) * shape.batch + place.image) * link.side_channels * shape.pixels();
  const Chunk* const streamed =
      link.side_weight + int64_t(place.group) * link.side_chunks * shape.taps() * Core::kOutputs;
  for (int first = 0; first < link.side_chunks; first += Core::kSideChunks) {
    const int count = link.side_chunks - first < Core::kSideChunks ? link.side_chunks - first : Core::kSideChunks;
    if (first > 0) __syncthreads();  // the previous chunks have been used
    load_channels<Core>(storage.side_window, pitch, image, first, count, shape, place, radius,
                        [&](int64_t depth) { return policy.side_row(depth, link.side_channels); });
    __syncthreads();
    if (shape.side_chunks > 0)
      Core::multiply(sum, storage.side_weight, first, count, link.side_chunks, storage.side_window, pitch, side,
                     shape.kernel, link.dilation);
    else
      Core::multiply(sum, streamed, first, count, link.side_chunks, storage.side_window, pitch, side, shape.kernel,
                     link.dilation);
  }
}

// All steps of one layer. ticks: steps of the layers before it in the chain.
template <class Policy>
__device__ __forceinline__ void run_layer(const PersistentArguments<Policy>& arguments, const Link& link,
                                          const typename Policy::Tensors& tensors, const Place& place,
                                          const PersistentStorage& storage, uint32_t ticks) {
  using Core = typename Policy::Core;
  const PersistentShape& shape = arguments.shape;
  const int radius = shape.kernel / 2 * link.dilation, side = kTile + 2 * radius;
  const int chunks = shape.recurrent_chunks, pitch = chunk_pitch(chunks), weight_chunks = shape.taps() * Core::kOutputs;
  const OwnChunks own = Policy::own_chunks(shape, place.group);
  Chunk* const exchange =
      arguments.exchange + (int64_t(place.chain) * shape.batch + place.image) * shape.pixels() * chunks;

  copy_chunks(storage.recurrent_weight, link.recurrent_weight + int64_t(place.group) * chunks * weight_chunks,
              chunks * weight_chunks);
  if (link.side_weight && shape.side_chunks > 0)
    copy_chunks(storage.side_weight, link.side_weight + int64_t(place.group) * link.side_chunks * weight_chunks,
                link.side_chunks * weight_chunks);
  for (int i = threadIdx.x; i < side * side * pitch; i += blockDim.x) storage.window[i] = Chunk{};
  Policy policy(shape, tensors, place, link.flip);
  if (ticks > 0) await_neighbours(shape, place, arguments.flags, radius, ticks);  // the layer before is done there

  for (int r = 0; r < shape.steps; ++r, ++ticks) {
    const int t = link.flip ? shape.steps - 1 - r : r;
    typename Core::Sum sum;
    policy.start(sum, t, r);
    if (link.side_weight) side_convolution(sum, policy, link, storage, shape, place, radius, t);
    if (r > 0) {
      await_neighbours(shape, place, arguments.flags, radius, ticks);
      load_ring(storage.window, exchange + (ticks - 1) % 2 * arguments.slot, shape, place, radius, own);
    } else if (policy.initial()) {
      load_channels<Core>(storage.window, pitch, policy.initial() + place.image * shape.channels * shape.pixels(), 0,
                          chunks, shape, place, radius,
                          [&](int64_t depth) { return depth < shape.channels ? depth : -1; });
    }
    if (r > 0 || policy.initial()) {
      __syncthreads();
      Core::multiply(sum, storage.recurrent_weight, 0, chunks, chunks, storage.window, pitch, side, shape.kernel,
                     link.dilation);
    }
    __syncthreads();  // the window has been used
    policy.finish(sum, storage.window + (radius * side + radius) * pitch, side, pitch);
    if (r + 1 < shape.steps) {
      __syncthreads();
      store_own(storage.window, exchange + ticks % 2 * arguments.slot, shape, place, radius, own);
      __syncthreads();
      if (threadIdx.x == 0) PDB_PUBLISH(arguments.flags + blockIdx.x, ticks + 1);
    }
    policy.store(sum, t, r);
  }
}

template <class Policy>
__global__ void __launch_bounds__(kPersistentThreads, 1)
    persistent_kernel(const __grid_constant__ PersistentArguments<Policy> arguments) {
  const PersistentShape& shape = arguments.shape;
  const Place place(shape);
  const PersistentStorage storage(shape, shape.taps() * Policy::Core::kOutputs);
  for (int d = 0; d < shape.depth; ++d) {
    const int layer = place.chain * shape.depth + d;
    run_layer(arguments, arguments.links[layer], arguments.tensors[layer], place, storage, uint32_t(d * shape.steps));
    if (d + 1 == shape.depth) break;
    __syncthreads();  // shared memory has been used, and all results are stored
    if (threadIdx.x == 0) PDB_PUBLISH(arguments.flags + blockIdx.x, uint32_t((d + 1) * shape.steps));
  }
}

}  // namespace pdb::cuda
