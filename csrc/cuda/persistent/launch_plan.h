// Whether layers fit in one persistent launch, and the launch itself: shared memory, residency, workspace, packed
// weights.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/persistent/loop.h"

namespace pdb::cuda {

// A weight (4C, columns, k, k) to be packed for Core.
template <class T>
struct PackJob {
  const T* weight;
  int columns;
  Chunk* packed;
  unsigned chunks, elements;
};

template <class T>
struct PackJobs {
  PackJob<T> jobs[2 * kMaxPersistentLayers];
  int count;
  uint32_t* flags;
  unsigned flag_count;
};

// Packs all weights of a launch and clears its flags.
template <class Policy, class T>
__global__ void __launch_bounds__(256)
    persistent_pack_kernel(const __grid_constant__ PackJobs<T> work, PersistentShape shape) {
  using Core = typename Policy::Core;
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
  const typename Policy::Source source(shape);
  for (unsigned i = thread; i < work.flag_count; i += stride) work.flags[i] = 0;
  for (int j = 0; j < work.count; ++j) {
    const PackJob<T>& job = work.jobs[j];
    for (unsigned e = thread; e < job.elements; e += stride) {
      const WeightPlace place = Core::locate(e, shape.taps(), job.chunks);
      int row, column, tap;
      const bool inside = source.find(job.columns, place, row, column, tap);
      const T value = inside ? job.weight[(row * job.columns + column) * shape.taps() + tap] : T{};
      reinterpret_cast<typename Core::Alias*>(job.packed)[e] = Core::element(value);
    }
  }
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The sizes of a launch. Not ok: no such launch is possible.
template <class Policy>
struct PersistentPlan {
  using Core = typename Policy::Core;
  using A = typename Core::A;

  PersistentShape shape{};
  int64_t blocks = 0, shared_bytes = 0, flag_chunks = 0, exchange_chunks = 0, side_sum_chunks = 0, weight_chunks = 0;
  bool ok = false;

  explicit PersistentPlan(const Chains& chains) {
    const Layer& first = chains.layers[0];
    if (!alike(chains)) return;
    const int64_t tiles_y = (first.height + kTile - 1) / kTile, tiles_x = (first.width + kTile - 1) / kTile;
    const int64_t groups = (first.channels + Core::kGroupChannels - 1) / Core::kGroupChannels;
    // Each factor is checked first: their product could overflow.
    for (int64_t size : {tiles_y, tiles_x, groups, first.batch, first.taps(), first.steps * chains.depth})
      if (size > 1 << 20) return;
    if (!has_32_bit_indices(chains)) return;
    blocks = chains.chains * first.batch * groups * tiles_y * tiles_x;
    shape = {int(first.channels),
             int(first.height),
             int(first.width),
             int(first.steps),
             int(first.batch),
             int(first.kernel),
             chains.depth,
             int(groups),
             int(tiles_y),
             int(tiles_x),
             0,
             0,
             0,
             int(std::min<int64_t>(kStepsAtOnce, first.steps)),
             int(groups > 1 ? Core::kGroupChannels : round_up(first.channels, Core::kPerChunk)),
             first.peephole_current};
    shape.recurrent_chunks = int(Policy::recurrent_chunks(shape));
    int64_t side_chunks = 0;
    for (int i = 0; i < chains.chains * chains.depth; ++i) {
      const int64_t side = side_chunks_of(chains, i);
      side_chunks = std::max(side_chunks, side);
      weight_chunks += groups * row_chunks() * (shape.recurrent_chunks + side);
    }
    flag_chunks = (blocks + 3) / 4;
    exchange_chunks = 2 * chains.chains * first.batch * first.pixels() * shape.recurrent_chunks;
    // The side weight is read every step: from shared memory if there is room, otherwise it alternates with the
    // recurrent weight.
    ok = fits(chains, int(std::min<int64_t>(side_chunks, 1 << 20))) || fits(chains, 0);
    if (side_chunks > 0 && shape.side_chunks == 0)
      side_sum_chunks = blocks * shape.steps_at_once * LayerRun<Policy>::kSumChunks * kPersistentThreads;
  }

  int64_t row_chunks() const { return int64_t(shape.taps()) * Core::kOutputs; }

  // Elements of A.
  int64_t workspace() const {
    return ok ? (flag_chunks + exchange_chunks + side_sum_chunks) * int64_t(16 / sizeof(A)) : 0;
  }
  int64_t packed() const { return ok ? weight_chunks * int64_t(16 / sizeof(A)) : 0; }

  int64_t side_chunks_of(const Chains& chains, int layer) const {
    return round_up(Policy::side_chunks(shape, chains.layers[layer], layer % chains.depth), Core::kChunkMultiple);
  }

 private:
  // Checks a frame of the largest array, and the largest weight, each rounded up to whole tiles and groups.
  static bool has_32_bit_indices(const Chains& chains) {
    constexpr double kLimit = double(1u << 31);
    for (int i = 0; i < chains.chains * chains.depth; ++i) {
      const Layer& l = chains.layers[i];
      const double channels = std::max(double(l.in_channels), 4.0 * double(l.channels)) + 4 * kTile * kTile;
      if (channels * double(l.batch) * (double(l.height) + kTile) * (double(l.width) + kTile) >= kLimit) return false;
      if (channels * (4 * double(l.channels) + 4 * kTile * kTile) * double(l.taps()) >= kLimit) return false;
    }
    return true;
  }

  static bool alike(const Chains& chains) {
    const Layer& a = chains.layers[0];
    if (chains.chains * chains.depth > kMaxPersistentLayers) return false;
    for (int i = 0; i < chains.chains * chains.depth; ++i) {
      const Layer& b = chains.layers[i];
      const bool same = a.steps == b.steps && a.batch == b.batch && a.channels == b.channels && a.height == b.height &&
                        a.width == b.width && a.kernel == b.kernel && a.peephole_current == b.peephole_current &&
                        a.tensor_cores == b.tensor_cores;
      if (!same || b.tensor_cores != Core::kTensorCores) return false;
      if (i % chains.depth == 0) continue;
      // One reach for a whole chain: see the two slots of the exchange in loop.h.
      if (b.in_channels != a.channels || b.dilation != chains.layers[i - 1].dilation) return false;
    }
    return true;
  }

  bool fits(const Chains& chains, int side_chunks) {
    int64_t side = 0;
    for (int i = 0; i < chains.chains * chains.depth; ++i)
      side = std::max(side, kTile + shape.kernel / 2 * 2 * with_bounded_dilation(chains.layers[i]).dilation);
    if (side > 4096) return false;
    shape.side_chunks = side_chunks, shape.window_side = int(side);
    const int64_t window = side * side * (chunk_pitch(shape.recurrent_chunks) + chunk_pitch(Core::kSideChunks));
    const int64_t weights = (shape.recurrent_chunks + int64_t(side_chunks)) * row_chunks();
    shared_bytes = 16 * (weights + window) + round_up(sizeof(typename Policy::Constants), 16);
    if (shared_bytes > 1 << 20) return false;
    return resident_blocks(persistent_kernel<Policy>, kPersistentThreads, shared_bytes) >= blocks;
  }
};

// use(the plan of Policy for these layers), with tensor cores or without. kGates: of the policy's core (core.h).
template <template <class, class> class Policy, class T, bool kGates, class Use>
auto with_plan(const Chains& chains, const Use& use) {
  if constexpr (!std::is_same_v<T, double>)
    if (chains.layers[0].tensor_cores) return use(PersistentPlan<Policy<T, MmaCore<T, kGates>>>(chains));
  return use(PersistentPlan<Policy<T, FmaCore<T, kGates>>>(chains));
}

// What a launch needs to know of a layer besides its tensors. The policy defines `flip` and the weights.
template <class T>
struct LayerWeights {
  const T *recurrent, *side;  // side: null if there is none
  int64_t recurrent_columns, side_columns, side_channels;
  int number, first_step, step_change;  // as in Link
  bool flip;
};

// Packs the weights, unless they are packed already, and launches. tensors and weights: in the order in which the
// launch runs the layers.
template <class Policy, class T>
int launch_persistent(const PersistentPlan<Policy>& plan, const Chains& chains, const LayerWeights<T>* weights,
                      const typename Policy::Tensors* tensors, const PackedWeights<T>& packed_weights,
                      typename Policy::Core::A* workspace, Stream stream) {
  using Core = typename Policy::Core;
  auto* const flags = reinterpret_cast<uint32_t*>(workspace);
  Chunk* const exchange = reinterpret_cast<Chunk*>(workspace) + plan.flag_chunks;
  Chunk* const side_sums = exchange + plan.exchange_chunks;
  Chunk* packed = reinterpret_cast<Chunk*>(packed_weights.data);
  PersistentArguments<Policy> arguments{plan.shape, {}, {}, exchange, plan.exchange_chunks / 2, side_sums, flags};
  PackJobs<T> work{{}, 0, flags, unsigned(plan.blocks)};
  int64_t elements = plan.blocks;
  const auto pack = [&](const T* weight, int64_t columns, int64_t chunks) {
    const int64_t size = plan.shape.groups * chunks * plan.row_chunks();
    work.jobs[work.count++] = {weight, int(columns), packed, unsigned(chunks), unsigned(size * Core::kPerChunk)};
    elements = std::max(elements, size * Core::kPerChunk);
    packed += size;
    return packed - size;
  };
  for (int i = 0; i < chains.chains * chains.depth; ++i) {
    Link& link = arguments.links[i];
    const Layer& layer = chains.layers[i];
    link.dilation = int(with_bounded_dilation(layer).dilation);
    link.flip = weights[i].flip, link.number = weights[i].number;
    link.first_step = weights[i].first_step, link.step_change = weights[i].step_change;
    link.recurrent_weight = pack(weights[i].recurrent, weights[i].recurrent_columns, plan.shape.recurrent_chunks);
    if (weights[i].side) {
      link.side_chunks = int(plan.side_chunks_of(chains, i));
      link.side_channels = int(weights[i].side_channels);
      link.side_weight = pack(weights[i].side, weights[i].side_columns, link.side_chunks);
    }
    arguments.tensors[i] = tensors[i];
  }
  if (packed_weights.is_packed) work.count = 0, elements = plan.blocks;  // only the flags remain to be cleared
  if (int error = launch(persistent_pack_kernel<Policy, T>, grid_for(elements, 256), 256, stream, work, plan.shape))
    return error;
  return launch_cooperative(persistent_kernel<Policy>, plan.blocks, kPersistentThreads, plan.shared_bytes, stream,
                            arguments);
}

}  // namespace pdb::cuda
