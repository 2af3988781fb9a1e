// Backward through time for persistent.h: the gradient of c stays in registers, the gate gradients go to the
// neighbours.
//
// The depth of both convolutions is the 4C gate gradients, ordered by group of channels, gate and channel, so that a
// block computes whole chunks. A layer's side convolution gives what reaches its output through the next layer.
#include "cuda/common/cell_io.h"
#include "cuda/persistent/launch_plan.h"

namespace pdb::cuda {
namespace {

template <class T, class C>
struct Backward : OwnCells<C> {
  using OwnCells<C>::shape, OwnCells<C>::place, OwnCells<C>::channel, OwnCells<C>::valid, OwnCells<C>::at;
  using Core = C;
  using A = accumulation_t<T>;
  using Sum = typename Core::Sum;
  static constexpr int kCells = Core::kCells;

  struct Constants {};

  struct Tensors {
    const T *grad_output, *grad_c_n;
    PeepholeWeights<T> peephole;
    const T *c_0, *gates;
    const A* cells;
    T *grad_gates, *grad_c_0;
    const T* side;  // grad_gates of the next layer, or null
    Connection<T> connection;
    bool pairs;  // see OwnCells::write()
  };

  // For a chunk of depth: the rows of the weight, and the channels of the gate gradients as they are stored. All are of
  // one gate.
  struct Depth {
    int channels;
    Divisor of_gate, of_group;  // chunks

    __device__ explicit Depth(const PersistentShape& shape)
        : channels(shape.channels),
          of_gate(shape.gradient_stride / Core::kPerChunk),
          of_group(kGateCount * of_gate.divisor) {}

    __device__ __forceinline__ ChunkRows rows(int chunk) const {
      const unsigned group = of_group.quotient(chunk), within = chunk - group * of_group.divisor;
      const unsigned gate = of_gate.quotient(within);
      const int channel = group * Core::kGroupChannels + (within - gate * of_gate.divisor) * Core::kPerChunk;
      const int left = channels - channel;
      return {int(gate) * channels + channel, left < Core::kPerChunk ? left : Core::kPerChunk};
    }
  };
  struct Source {
    Depth depth;
    int taps;

    __device__ explicit Source(const PersistentShape& shape) : depth(shape), taps(shape.taps()) {}
    __device__ __forceinline__ bool find(int columns, const WeightPlace& at, int& row, int& column, int& tap) const {
      column = at.output / Core::kOutputs * Core::kGroupChannels + at.output % Core::kOutputs;
      const ChunkRows rows = depth.rows(at.depth / Core::kPerChunk);
      const int within = at.depth % Core::kPerChunk;
      row = rows.first + within, tap = taps - 1 - at.tap;
      return within < rows.count && column < columns;
    }
  };

  const Tensors& tensors;
  Depth depth;
  bool flip;
  A dc[kCells], c[kCells], c_previous[kCells];
  T saved[kCells][kGateCount], grad_output[kCells];  // unconverted: a conversion would wait for the load
  Gates<A> grad_gates[kCells];

  static PDB_HD int64_t group_depth(const PersistentShape& shape) { return kGateCount * shape.gradient_stride; }
  static int64_t recurrent_chunks(const PersistentShape& shape) {
    return shape.groups * group_depth(shape) / Core::kPerChunk;
  }
  static int64_t side_chunks(const PersistentShape& shape, const Layer&, int d) {
    return d > 0 ? recurrent_chunks(shape) : 0;
  }
  static __device__ __forceinline__ OwnChunks own_chunks(const PersistentShape& shape, int group) {
    const int own = int(group_depth(shape)) / Core::kPerChunk;
    return {group * own, (group + 1) * own};
  }

  __device__ Backward(const PersistentShape& shape, const Tensors& tensors, const Place& place, bool flip, Constants&)
      : OwnCells<C>{shape, place}, tensors(tensors), depth(shape), flip(flip) {
    const int t = flip ? shape.steps - 1 : 0;
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      const int own = valid(j) ? at(j) : 0;
      dc[j] = tensors.connection.grad_c ? tensors.connection.grad_c[own]
              : tensors.grad_c_n        ? A(widen(tensors.grad_c_n[own]))
                                        : A(0);
      c_previous[j] = tensors.cells[t * shape.state() + own];
    }
  }

  __device__ const T* side() const { return tensors.side; }
  __device__ __forceinline__ ChunkRows side_rows(int chunk, int) const { return depth.rows(chunk); }
  __device__ __forceinline__ const T* initial() const {
    const T* const after = tensors.connection.grad_gates_after;
    return after ? after + place.image * 4 * shape.channels * shape.pixels() : nullptr;
  }
  __device__ __forceinline__ ChunkRows initial_rows(int chunk) const { return depth.rows(chunk); }

  // Reads what the cell needs before waiting for the neighbours. Cells outside the image read and compute arbitrary
  // values: without branches between the cells all loads are in flight at once, and all cells interleave.
  __device__ __forceinline__ void start(Sum& sum, int t, int r) {
    const int before = flip ? t - 1 : t + 1;  // the step that ran before t in forward
    const int channels = shape.channels;
#pragma unroll
    for (int i = 0; i < kGateCount; ++i)
      this->read(tensors.gates + t * 4 * shape.state() + i * channels * shape.pixels(), 4 * channels, tensors.pairs,
                 [&](int j, T value) { saved[j][i] = value; });
    if (tensors.grad_output)
      this->read(tensors.grad_output + t * shape.state(), channels, tensors.pairs,
                 [&](int j, T value) { grad_output[j] = value; });
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      c[j] = c_previous[j];
      if (!tensors.grad_output) grad_output[j] = T{};
      Core::value(sum, j, 0) = 0;
    }
    read_previous_cells(before, r + 1 == shape.steps);
  }

  __device__ __forceinline__ void read_previous_cells(int before, bool is_first) {
    const A* const cells = is_first ? tensors.connection.c_before : tensors.cells + before * shape.state();
    if (cells) return this->read(cells, shape.channels, tensors.pairs, [&](int j, A value) { c_previous[j] = value; });
#pragma unroll
    for (int j = 0; j < kCells; ++j) c_previous[j] = tensors.c_0 && valid(j) ? A(widen(tensors.c_0[at(j)])) : A(0);
  }

  __device__ __forceinline__ void finish(Sum& sum, Chunk* tile, int side, int pitch) {
    if (tensors.peephole.data)
      update_gradients<true>(sum);
    else
      update_gradients<false>(sum);
    const int stride = shape.gradient_stride;
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      if (!valid(j)) continue;
      Chunk* const pixel = tile + (Core::y(j) * side + Core::x(j)) * pitch;
      const int first = place.group * kGateCount * stride + Core::channel(j);
      Core::write(pixel, first + kGateI * stride, Core::rounded(grad_gates[j].i));
      Core::write(pixel, first + kGateF * stride, Core::rounded(grad_gates[j].f));
      Core::write(pixel, first + kGateO * stride, Core::rounded(grad_gates[j].o));
      Core::write(pixel, first + kGateG * stride, Core::rounded(grad_gates[j].g));
    }
  }

  template <bool kPeephole>
  __device__ __forceinline__ void update_gradients(Sum& sum) {
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      Peephole<A> peephole{A(0), A(0), A(0)};
      if (kPeephole && valid(j))
        peephole = read_peephole<A>(tensors.peephole, channel(j), place.y() + Core::y(j), place.x() + Core::x(j));
      const Gates<A> gates = read_gates(saved[j], 1);
      const A dh = Core::value(sum, j, 0) + A(widen(grad_output[j]));
      cell_backward(gates, peephole, c_previous[j], c[j], kPeephole && shape.peephole_current, dh, dc[j],
                    grad_gates[j]);
    }
  }

  __device__ __forceinline__ void store(Sum&, int t, int r) const {
    const int channels = shape.channels;
    T* const result = tensors.grad_gates + t * 4 * shape.state();
    const auto store_gate = [&](Gate gate, auto value) {
      this->write(result + gate * channels * shape.pixels(), 4 * channels, tensors.pairs,
                  [&](int j) { return narrowed<T>(value(j)); });
    };
    store_gate(kGateI, [&](int j) { return grad_gates[j].i; });
    store_gate(kGateF, [&](int j) { return grad_gates[j].f; });
    store_gate(kGateO, [&](int j) { return grad_gates[j].o; });
    store_gate(kGateG, [&](int j) { return grad_gates[j].g; });
    if (r + 1 < shape.steps) return;
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      if (!valid(j)) continue;
      if (tensors.connection.grad_c_before)
        tensors.connection.grad_c_before[at(j)] = dc[j];
      else if (tensors.grad_c_0)
        tensors.grad_c_0[at(j)] = narrowed<T>(dc[j]);
    }
  }
};

// The launch runs the last layer of a chain first.
int opposite(const Chains& chains, int i) {
  return i / chains.depth * chains.depth + chains.depth - 1 - i % chains.depth;
}

template <class Policy, class T>
int run(const PersistentPlan<Policy>& plan, const Chains& chains, const BackwardTensors<T>* tensors,
        T* const* grad_gates, const Connection<T>* connections, const PackedWeights<T>& packed,
        accumulation_t<T>* workspace, Stream stream) {
  LayerWeights<T> weights[kMaxPersistentLayers];
  typename Policy::Tensors given[kMaxPersistentLayers];
  for (int i = 0; i < chains.chains * chains.depth; ++i) {
    const int own = opposite(chains, i), behind = i % chains.depth > 0 ? own + 1 : -1;
    const int64_t C = chains.layers[own].channels;
    const BackwardTensors<T>& a = tensors[own];
    const Layer& layer = chains.layers[own];
    const int number = connections ? connections[own].number : own,
              begin = connections ? connections[own].first_step : 0;
    weights[i] = {a.weight_h,
                  behind < 0 ? nullptr : tensors[behind].weight_x,
                  C,
                  C,
                  4 * C,
                  number,
                  begin + int(layer.steps) - 1,
                  -1,
                  !layer.reverse};
    given[i] = {a.grad_output,
                a.grad_c_n,
                a.peephole,
                a.c_0,
                a.gates,
                a.cells,
                grad_gates[own],
                a.grad_c_0,
                behind < 0 ? nullptr : grad_gates[behind],
                connections ? connections[own] : Connection<T>{},
                in_pairs(layer.width, a.grad_output, a.gates, a.cells, grad_gates[own],
                         connections ? connections[own].c_before : nullptr)};
  }
  return launch_persistent(plan, chains, weights, given, packed, workspace, stream);
}

}  // namespace

template <class T>
int64_t persistent_backward_workspace(const Chains& chains) {
  return with_plan<Backward, T, false>(chains, [](const auto& plan) { return plan.workspace(); });
}

template <class T>
int64_t persistent_backward_packed(const Chains& chains) {
  return with_plan<Backward, T, false>(chains, [](const auto& plan) { return plan.packed(); });
}

template <class T>
int persistent_backward(const Chains& chains, const BackwardTensors<T>* tensors, T* const* grad_gates,
                        const Connection<T>* connections, const PackedWeights<T>& packed, accumulation_t<T>* workspace,
                        Stream stream) {
  return with_plan<Backward, T, false>(chains, [&](const auto& plan) {
    return run(plan, chains, tensors, grad_gates, connections, packed, workspace, stream);
  });
}

#define INSTANTIATE(T)                                                                                        \
  template int64_t persistent_backward_workspace<T>(const Chains&);                                           \
  template int64_t persistent_backward_packed<T>(const Chains&);                                              \
  template int persistent_backward(const Chains&, const BackwardTensors<T>*, T* const*, const Connection<T>*, \
                                   const PackedWeights<T>&, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
