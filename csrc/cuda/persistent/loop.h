// The loop of the persistent kernels, the same for forward and backward. A step is two convolutions and a cell: the
// side convolution, over what is known before the step (x in forward, the gate gradients of the next layer in
// backward), and the recurrent one, over what the neighbours computed in the last step (h in forward, gate gradients in
// backward).
//
// A block keeps its recurrent weight and its own tile in shared memory and its cells in registers. A step's result goes
// to the neighbours through a buffer in the order in which they read it; two slots are enough, since nobody gets a step
// ahead of those it waits for. Only then is the result stored where the caller wants it, and the side convolution of
// the next step done: both hide the time that the flags and the halo take. Flags start from zero and grow by one per
// step, by T per layer.
//
// If there is no room for the side weight beside the recurrent one (4 bytes an element), the two alternate: the sums of
// the side convolution are computed for several steps at once and wait in global memory, each for the thread that made
// it. That is 32 KB per step and block, less in backward; the weight itself, read every step, would be 147 KB.
#pragma once

#include "cuda/persistent/core.h"
#include "cuda/persistent/persistent.h"

namespace pdb::cuda {

// How a layer is connected with the others of its launch.
struct Link {
  const Chunk* recurrent_weight;  // packed, of all groups
  const Chunk* side_weight;       // null: no side convolution
  int side_channels;              // of the side input, as it is stored
  int side_chunks, dilation;
  int number;  // of the layer, in the caller's count
  int first_step,
      step_change;  // the first step of this launch, in the layer's forward order; change from one step to the next
  bool flip;        // the steps of this launch go from frame T-1 to 0

  __device__ __forceinline__ Waiting waiting(int r) const {
    return {number, first_step + r * step_change, step_change < 0};
  }
};

// The most steps whose side sums are computed at once if the weights alternate.
constexpr int kStepsAtOnce = 8;

template <class Policy>
struct PersistentArguments {
  PersistentShape shape;
  Link links[kMaxPersistentLayers];
  typename Policy::Tensors tensors[kMaxPersistentLayers];
  Chunk* exchange;   // (2, chains, N, H, W, recurrent chunks)
  int64_t slot;      // chunks of one of the two
  Chunk* side_sums;  // (blocks, steps at once, chunks of a Sum, threads), if the weights alternate
  uint32_t* flags;   // one per block, zero at first
};

// The block's shared memory.
template <class Policy>
struct PersistentStorage {
  Chunk *recurrent_weight, *side_weight, *window, *side_window;
  typename Policy::Constants* constants;  // of the layer

  __device__ explicit PersistentStorage(const PersistentShape& shape) {
    const int weight_chunks = shape.taps() * Policy::Core::kOutputs;
    recurrent_weight = reinterpret_cast<Chunk*>(dynamic_shared_memory());
    side_weight = recurrent_weight + shape.recurrent_chunks * weight_chunks;
    window = side_weight + shape.side_chunks * weight_chunks;
    const int side = shape.window_side;
    side_window = window + side * side * chunk_pitch(shape.recurrent_chunks);
    constants = reinterpret_cast<typename Policy::Constants*>(side_window +
                                                              side * side * chunk_pitch(Policy::Core::kSideChunks));
  }
};

// Loads come in batches, to wait for L2 once.
__device__ __forceinline__ void copy_chunks(Chunk* target, const Chunk* source, int count) {
  constexpr int kBatch = 8;
  int i = threadIdx.x;
  for (; i + (kBatch - 1) * kPersistentThreads < count; i += kBatch * kPersistentThreads) {
    Chunk value[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) value[b] = source[i + b * kPersistentThreads];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) target[i + b * kPersistentThreads] = value[b];
  }
  for (; i < count; i += kPersistentThreads) target[i] = source[i];
}

// Copies chunks [first, first + count) of the depth of a group's weight, out of `total`.
template <class Core>
__device__ __forceinline__ void copy_weight(Chunk* target, const Chunk* weight, int first, int count, int total,
                                            int taps) {
  const int depth = taps * Core::kOutputs / Core::kRowBlocks;  // chunks of a row block in one chunk of depth
  if (count == total) return copy_chunks(target, weight, count * depth * Core::kRowBlocks);
  for (int block = 0; block < Core::kRowBlocks; ++block)
    copy_chunks(target + block * count * depth, weight + (block * total + first) * depth, count * depth);
}

// One block in a layer: what every part of its loop needs to know.
template <class Policy>
struct LayerRun {
  using Core = typename Policy::Core;
  using Sum = typename Core::Sum;
  static constexpr int kSumChunks = sizeof(Sum) / sizeof(Chunk);

  const PersistentArguments<Policy>& arguments;
  const PersistentShape& shape;
  const Link& link;
  const Place& place;
  const PersistentStorage<Policy>& storage;
  WindowSize window;
  int weight_chunks;  // of one chunk of depth

  __device__ LayerRun(const PersistentArguments<Policy>& arguments, const Link& link, const Place& place,
                      const PersistentStorage<Policy>& storage)
      : arguments(arguments),
        shape(arguments.shape),
        link(link),
        place(place),
        storage(storage),
        window(shape.kernel / 2 * link.dilation, shape.recurrent_chunks),
        weight_chunks(shape.taps() * Core::kOutputs) {}

  __device__ __forceinline__ int side() const { return int(window.side.divisor); }

  __device__ __forceinline__ int frame(int r) const { return link.flip ? shape.steps - 1 - r : r; }
  __device__ __forceinline__ bool weights_alternate() const { return link.side_weight && shape.side_chunks == 0; }
  __device__ __forceinline__ const Chunk* side_weight() const {
    return link.side_weight + int64_t(place.group) * link.side_chunks * weight_chunks;
  }

  __device__ __forceinline__ void load_recurrent_weight() const {
    const int chunks = shape.recurrent_chunks;
    copy_chunks(storage.recurrent_weight, link.recurrent_weight + int64_t(place.group) * chunks * weight_chunks,
                chunks * weight_chunks);
  }

  // sum += the side convolution of frame t over chunks [first, first + count) of its depth, a few at a time. weight:
  // for these chunks.
  __device__ __forceinline__ void side_convolution(Sum& sum, const Policy& policy, const Chunk* weight, int first,
                                                   int count, int t) const {
    const int pitch = chunk_pitch(Core::kSideChunks);
    const auto* image = policy.side() + (int64_t(t) * shape.batch + place.image) * link.side_channels * shape.pixels();
    for (int done = 0; done < count; done += Core::kSideChunks) {
      const int some = count - done < Core::kSideChunks ? count - done : Core::kSideChunks;
      if (done > 0) __syncthreads();  // the previous chunks have been used
      load_channels<Core>(storage.side_window, pitch, image, first + done, some, shape, place, window,
                          [&](int chunk) { return policy.side_rows(chunk, link.side_channels); });
      __syncthreads();
      Core::multiply(sum, weight, done, some, count, storage.side_window, pitch, side(), shape.kernel, link.dilation);
    }
  }

  // Where this thread keeps chunk i of the side sums of step r.
  __device__ __forceinline__ Chunk* side_sum(int r, int i) const {
    const int64_t step = int64_t(blockIdx.x) * shape.steps_at_once + r % shape.steps_at_once;
    return arguments.side_sums + (step * kSumChunks + i) * kPersistentThreads + threadIdx.x;
  }

  // Computes the side sums of steps [begin, end) into global memory, with as much of the weight at a time as there is
  // room for.
  __device__ __forceinline__ void make_side_sums(const Policy& policy, int begin, int end) const {
    for (int first = 0; first < link.side_chunks; first += shape.recurrent_chunks) {
      const int left = link.side_chunks - first, count = left < shape.recurrent_chunks ? left : shape.recurrent_chunks;
      if (first > 0) __syncthreads();  // the weight in there has been used
      copy_weight<Core>(storage.recurrent_weight, side_weight(), first, count, link.side_chunks, shape.taps());
      for (int r = begin; r < end; ++r) {
        Sum sum{};
        if (r > begin) __syncthreads();  // the window of the step before has been used
        side_convolution(sum, policy, storage.recurrent_weight, first, count, frame(r));
        if (first > 0) add_side_sums(sum, r);
#pragma unroll
        for (int i = 0; i < kSumChunks; ++i) *side_sum(r, i) = reinterpret_cast<const Chunk*>(&sum)[i];
      }
    }
    __syncthreads();  // the side weight has been used
    load_recurrent_weight();
  }

  __device__ __forceinline__ void add_side_sums(Sum& sum, int r) const {
    Sum part;
#pragma unroll
    for (int i = 0; i < kSumChunks; ++i) reinterpret_cast<Chunk*>(&part)[i] = *side_sum(r, i);
#pragma unroll
    for (int j = 0; j < Core::kCells; ++j) {
#pragma unroll
      for (int i = 0; i < Core::kValues; ++i) Core::value(sum, j, i) += Core::value(part, j, i);
    }
  }
};

// All steps of one layer. ticks: the number of steps of the layers before it in the chain.
template <class Policy>
__device__ __forceinline__ void run_layer(const PersistentArguments<Policy>& arguments, const Link& link,
                                          const typename Policy::Tensors& tensors, const Place& place,
                                          const PersistentStorage<Policy>& storage, uint32_t ticks) {
  using Core = typename Policy::Core;
  const PersistentShape& shape = arguments.shape;
  const LayerRun<Policy> run(arguments, link, place, storage);
  const int radius = run.window.radius, side = run.side(), chunks = shape.recurrent_chunks, pitch = chunk_pitch(chunks);
  const OwnChunks own = Policy::own_chunks(shape, place.group);
  Chunk* const exchange =
      arguments.exchange + int64_t(place.chain * shape.batch + place.image) * shape.pixels() * chunks;

  if (!run.weights_alternate()) run.load_recurrent_weight();
  if (link.side_weight && shape.side_chunks > 0)
    copy_chunks(storage.side_weight, run.side_weight(), link.side_chunks * run.weight_chunks);
  for (int i = threadIdx.x; i < side * side * pitch; i += kPersistentThreads) storage.window[i] = Chunk{};
  Policy policy(shape, tensors, place, link.flip, *storage.constants);
  __syncthreads();  // the constants are there
  if (ticks > 0)    // the neighbours are done with the layer before
    await_neighbours(shape, place, arguments.flags, radius, ticks, link.waiting(0));

  for (int r = 0; r < shape.steps; ++r, ++ticks) {
    if (run.weights_alternate() && r % shape.steps_at_once == 0)
      run.make_side_sums(policy, r, r + shape.steps_at_once < shape.steps ? r + shape.steps_at_once : shape.steps);
    const int t = run.frame(r);
    typename Core::Sum sum;
    policy.start(sum, t, r);
    if (run.weights_alternate())
      run.add_side_sums(sum, r);
    else if (link.side_weight)
      run.side_convolution(sum, policy, storage.side_weight, 0, link.side_chunks, t);
    if (r > 0) {
      await_neighbours(shape, place, arguments.flags, radius, ticks, link.waiting(r));
      load_ring(storage.window, exchange + (ticks - 1) % 2 * arguments.slot, shape, place, run.window, own);
    } else if (policy.initial()) {
      load_channels<Core>(storage.window, pitch, policy.initial(), 0, chunks, shape, place, run.window,
                          [&](int chunk) { return policy.initial_rows(chunk); });
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
      store_own(storage.window, exchange + ticks % 2 * arguments.slot, shape, place, run.window, own);
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
  const PersistentStorage<Policy> storage(shape);
  for (int d = 0; d < shape.depth; ++d) {
    const int layer = place.chain * shape.depth + d;
    run_layer(arguments, arguments.links[layer], arguments.tensors[layer], place, storage, uint32_t(d * shape.steps));
    if (d + 1 == shape.depth) break;
    __syncthreads();  // shared memory has been used, and all results are stored
    if (threadIdx.x == 0) PDB_PUBLISH(arguments.flags + blockIdx.x, uint32_t((d + 1) * shape.steps));
  }
}

}  // namespace pdb::cuda
