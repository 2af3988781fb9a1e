// Forward for persistent.h: c stays in registers, h goes to the neighbours.
#include "cuda/common/cell_io.h"
#include "cuda/persistent/launch_plan.h"

namespace pdb::cuda {
namespace {

template <class T, class C>
struct Forward : OwnCells<C> {
  using OwnCells<C>::shape, OwnCells<C>::place, OwnCells<C>::channel, OwnCells<C>::valid, OwnCells<C>::at;
  using Core = C;
  using A = accumulation_t<T>;
  using Sum = typename Core::Sum;
  static constexpr int kCells = Core::kCells;

  // The bias, gate by gate.
  struct Constants {
    A bias[kGateCount * Core::kGroupChannels];
  };

  struct Tensors {
    const T* x;
    const T* bias;
    PeepholeWeights<T> peephole;
    const T *h_0, *c_0;
    T *output, *c_n, *gates;
    A* cells;
    bool pairs;  // see OwnCells::write()
  };

  const Tensors& tensors;
  const Constants& constants;
  A c[kCells], h[kCells];

  static int64_t recurrent_chunks(const PersistentShape& shape) {
    return round_up((shape.channels + Core::kPerChunk - 1) / Core::kPerChunk, Core::kChunkMultiple);
  }
  static int64_t side_chunks(const PersistentShape&, const Layer& layer, int) {
    return (layer.in_channels + Core::kPerChunk - 1) / Core::kPerChunk;
  }
  static __device__ __forceinline__ OwnChunks own_chunks(const PersistentShape& shape, int group) {
    constexpr int kOwn = Core::kGroupChannels / Core::kPerChunk;
    const int end = (group + 1) * kOwn;
    return {group * kOwn, end < shape.recurrent_chunks ? end : shape.recurrent_chunks};
  }
  // Finds the element of the weight that is packed at this place. False: there is none, and a zero is packed.
  struct Source {
    int channels;

    __device__ explicit Source(const PersistentShape& shape) : channels(shape.channels) {}
    __device__ __forceinline__ bool find(int columns, const WeightPlace& at, int& row, int& column, int& tap) const {
      int channel, gate;
      Core::gate_row(at.output % Core::kOutputs, channel, gate);
      channel += at.output / Core::kOutputs * Core::kGroupChannels;
      row = gate * channels + channel, column = at.depth, tap = at.tap;
      return channel < channels && column < columns;
    }
  };

  __device__ Forward(const PersistentShape& shape, const Tensors& tensors, const Place& place, bool,
                     Constants& constants)
      : OwnCells<C>{shape, place}, tensors(tensors), constants(constants) {
    for (int i = threadIdx.x; i < kGateCount * Core::kGroupChannels; i += kPersistentThreads) {
      const int gate = i / Core::kGroupChannels, c = place.group * Core::kGroupChannels + i % Core::kGroupChannels;
      constants.bias[i] = tensors.bias && c < shape.channels ? A(widen(tensors.bias[gate * shape.channels + c])) : A(0);
    }
#pragma unroll
    for (int j = 0; j < kCells; ++j) c[j] = tensors.c_0 && valid(j) ? A(widen(tensors.c_0[at(j)])) : A(0);
  }

  __device__ const T* side() const { return tensors.x; }
  static __device__ __forceinline__ ChunkRows side_rows(int chunk, int channels) {
    const int first = chunk * Core::kPerChunk, left = channels - first;
    return {first, left < Core::kPerChunk ? left : Core::kPerChunk};
  }
  // What the recurrent convolution of the first step reads of this block's image, or null.
  __device__ __forceinline__ const T* initial() const {
    return tensors.h_0 ? tensors.h_0 + place.image * shape.channels * shape.pixels() : nullptr;
  }
  __device__ __forceinline__ ChunkRows initial_rows(int chunk) const { return side_rows(chunk, shape.channels); }

  __device__ __forceinline__ void start(Sum& sum, int, int) const {
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
#pragma unroll
      for (int gate = 0; gate < kGateCount; ++gate)
        Core::value(sum, j, gate) = constants.bias[gate * Core::kGroupChannels + Core::channel(j)];
    }
  }

  // tile: this block's own first pixel. The activations stay in sum.
  __device__ __forceinline__ void finish(Sum& sum, Chunk* tile, int side, int pitch) {
    if (tensors.peephole.data)
      update_cells<true>(sum);
    else
      update_cells<false>(sum);
#pragma unroll
    for (int j = 0; j < kCells; ++j)
      if (valid(j)) Core::write(tile + (Core::y(j) * side + Core::x(j)) * pitch, channel(j), Core::rounded(h[j]));
  }

  // Cells outside the image are computed, too: without branches between them all cells interleave.
  template <bool kPeephole>
  __device__ __forceinline__ void update_cells(Sum& sum) {
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      Gates<A> gates{Core::value(sum, j, kGateI), Core::value(sum, j, kGateF), Core::value(sum, j, kGateO),
                     Core::value(sum, j, kGateG)};
      Peephole<A> peephole{A(0), A(0), A(0)};
      if (kPeephole && valid(j))
        peephole = read_peephole<A>(tensors.peephole, channel(j), place.y() + Core::y(j), place.x() + Core::x(j));
      cell_forward(gates, peephole, A(c[j]), kPeephole && shape.peephole_current, c[j], h[j]);
      Core::value(sum, j, kGateI) = gates.i, Core::value(sum, j, kGateF) = gates.f;
      Core::value(sum, j, kGateO) = gates.o, Core::value(sum, j, kGateG) = gates.g;
    }
  }

  __device__ __forceinline__ void store(Sum& sum, int t, int r) const {
    const int64_t frame = t * shape.state();
    const int channels = shape.channels;
    this->write(tensors.output + frame, channels, tensors.pairs, [&](int j) { return narrowed<T>(h[j]); });
    if (r + 1 == shape.steps) {
#pragma unroll
      for (int j = 0; j < kCells; ++j)
        if (valid(j)) tensors.c_n[at(j)] = narrowed<T>(c[j]);
    }
    if (tensors.cells) this->write(tensors.cells + frame, channels, tensors.pairs, [&](int j) { return c[j]; });
    if (!tensors.gates) return;
#pragma unroll
    for (int gate = 0; gate < kGateCount; ++gate)
      this->write(tensors.gates + 4 * frame + gate * channels * shape.pixels(), 4 * channels, tensors.pairs,
                  [&](int j) { return narrowed<T>(Core::value(sum, j, gate)); });
  }
};

template <class Policy, class T>
int run(const PersistentPlan<Policy>& plan, const Chains& chains, const ForwardTensors<T>* tensors,
        const PackedWeights<T>& packed, accumulation_t<T>* workspace, Stream stream) {
  LayerWeights<T> weights[kMaxPersistentLayers];
  typename Policy::Tensors given[kMaxPersistentLayers];
  for (int i = 0; i < chains.chains * chains.depth; ++i) {
    const Layer& layer = chains.layers[i];
    const ForwardTensors<T>& a = tensors[i];
    weights[i] = {a.weight_h, a.weight_x, layer.channels, layer.in_channels, layer.in_channels, i, 0, 1, layer.reverse};
    const bool pairs = in_pairs(layer.width, a.output, a.gates, a.cells);
    given[i] = {a.x, a.bias, a.peephole, a.h_0, a.c_0, a.output, a.c_n, a.gates, a.cells, pairs};
  }
  return launch_persistent(plan, chains, weights, given, packed, workspace, stream);
}

}  // namespace

template <class T>
int64_t persistent_forward_workspace(const Chains& chains) {
  return with_plan<Forward, T, true>(chains, [](const auto& plan) { return plan.workspace(); });
}

template <class T>
int64_t persistent_forward_packed(const Chains& chains) {
  return with_plan<Forward, T, true>(chains, [](const auto& plan) { return plan.packed(); });
}

template <class T>
int persistent_forward(const Chains& chains, const ForwardTensors<T>* tensors, const PackedWeights<T>& packed,
                       accumulation_t<T>* workspace, Stream stream) {
  return with_plan<Forward, T, true>(
      chains, [&](const auto& plan) { return run(plan, chains, tensors, packed, workspace, stream); });
}

#define INSTANTIATE(T)                                                                              \
  template int64_t persistent_forward_workspace<T>(const Chains&);                                  \
  template int64_t persistent_forward_packed<T>(const Chains&);                                     \
  template int persistent_forward(const Chains&, const ForwardTensors<T>*, const PackedWeights<T>&, \
                                  accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
