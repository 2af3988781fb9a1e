// Backward through time of persistent.h: the gradient of c in registers, the gate gradients to the neighbours.
//
// The depth of both convolutions is the 4C gate gradients, ordered by group of channels, gate and channel, so that what a
// block computes are whole chunks. A layer's side convolution gives what reaches its output through the layer behind.
#include "cell_step.h"
#include "persistent_launch.h"

namespace pdb::cuda {
namespace {

template <class T, class C>
struct Backward : OwnCells<C> {
  using OwnCells<C>::shape, OwnCells<C>::place, OwnCells<C>::channel, OwnCells<C>::valid, OwnCells<C>::at;
  using Core = C;
  using A = accumulation_t<T>;
  using Sum = typename Core::Sum;
  static constexpr int kCells = Core::kCells;

  struct Tensors {
    const T *grad_output, *grad_c_n;
    PeepholeWeights<T> peephole;
    const T* c_0;
    const A *gates, *cells;
    A* grad_gates;
    T* grad_c_0;
    const A* side;  // grad_gates of the layer behind, or null
  };

  const Tensors& tensors;
  bool flip;
  A dc[kCells], c[kCells], c_previous[kCells];
  Gates<A> gates[kCells];  // then their gradients

  static PDB_HD int64_t group_depth(const PersistentShape& shape) { return 4 * shape.gradient_stride; }
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
  // The row of the weight, and the channel of the gate gradients as they are stored, of this depth; or -1.
  static __device__ __forceinline__ int64_t depth_row(const PersistentShape& shape, int64_t depth) {
    const int stride = shape.gradient_stride, within = int(depth) % (4 * stride);
    const int64_t channel = int64_t(depth) / (4 * stride) * Core::kGroupChannels + within % stride;
    return channel < shape.channels ? within / stride * shape.channels + channel : -1;
  }
  static __device__ bool source(const PersistentShape& shape, int64_t columns, const WeightPlace& at, int64_t& row,
                                int64_t& column, int64_t& tap) {
    column = at.output / Core::kOutputs * Core::kGroupChannels + at.output % Core::kOutputs;
    row = depth_row(shape, at.depth), tap = shape.taps() - 1 - at.tap;
    return row >= 0 && column < columns;
  }

  __device__ Backward(const PersistentShape& shape, const Tensors& tensors, const Place& place, bool flip)
      : OwnCells<C>{shape, place}, tensors(tensors), flip(flip) {
    const int t = flip ? shape.steps - 1 : 0;
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      dc[j] = tensors.grad_c_n && valid(j) ? A(widen(tensors.grad_c_n[at(j)])) : A(0);
      c_previous[j] = valid(j) ? tensors.cells[t * shape.state() + at(j)] : A(0);
    }
  }

  __device__ const A* side() const { return tensors.side; }
  __device__ __forceinline__ int64_t side_row(int64_t depth, int64_t) const { return depth_row(shape, depth); }
  static __device__ const T* initial() { return nullptr; }

  // Reads what the cell needs before the neighbours are waited for.
  __device__ __forceinline__ void start(Sum& sum, int t, int r) {
    const int before = flip ? t - 1 : t + 1;  // the step that ran before t in forward
    const bool is_first = r + 1 == shape.steps;
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      Core::value(sum, j, 0) = 0;
      c[j] = c_previous[j];
      if (!valid(j)) continue;
      if (tensors.grad_output) Core::value(sum, j, 0) = widen(tensors.grad_output[t * shape.state() + at(j)]);
      const A* const saved = tensors.gates + t * 4 * shape.state() + at(j, 4 * shape.channels);
      const int64_t gate = shape.channels * shape.pixels();
      gates[j] = {saved[0], saved[gate], saved[2 * gate], saved[3 * gate]};
      if (is_first)
        c_previous[j] = tensors.c_0 ? A(widen(tensors.c_0[at(j)])) : A(0);
      else
        c_previous[j] = tensors.cells[before * shape.state() + at(j)];
    }
  }

  __device__ __forceinline__ void finish(Sum& sum, Chunk* tile, int side, int pitch) {
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      if (!valid(j)) continue;
      const Peephole<A> peephole =
          read_peephole<A>(tensors.peephole, channel(j), place.y() + Core::y(j), place.x() + Core::x(j));
      Gates<A> dgates;
      cell_backward(gates[j], peephole, c_previous[j], c[j], shape.peephole_current, A(Core::value(sum, j, 0)), dc[j],
                    dgates);
      gates[j] = dgates;
      Chunk* const pixel = tile + (Core::y(j) * side + Core::x(j)) * pitch;
      const int stride = shape.gradient_stride, depth = place.group * 4 * stride + Core::channel(j);
      Core::write(pixel, depth, Core::rounded(dgates.i));
      Core::write(pixel, depth + stride, Core::rounded(dgates.f));
      Core::write(pixel, depth + 2 * stride, Core::rounded(dgates.o));
      Core::write(pixel, depth + 3 * stride, Core::rounded(dgates.g));
    }
  }

  __device__ __forceinline__ void store(Sum&, int t, int r) const {
#pragma unroll
    for (int j = 0; j < kCells; ++j) {
      if (!valid(j)) continue;
      A* const result = tensors.grad_gates + t * 4 * shape.state() + at(j, 4 * shape.channels);
      const int64_t gate = shape.channels * shape.pixels();
      store_global(result, gates[j].i);
      store_global(result + gate, gates[j].f);
      store_global(result + 2 * gate, gates[j].o);
      store_global(result + 3 * gate, gates[j].g);
      if (r + 1 == shape.steps && tensors.grad_c_0) tensors.grad_c_0[at(j)] = narrowed<T>(dc[j]);
    }
  }
};

// The launch runs the last layer of a chain first.
int opposite(const Chains& chains, int i) { return i / chains.depth * chains.depth + chains.depth - 1 - i % chains.depth; }

template <class Policy, class T>
int run(const PersistentPlan<Policy>& plan, const Chains& chains, const BackwardTensors<T>* tensors,
        accumulation_t<T>* const* grad_gates, accumulation_t<T>* workspace, Stream stream) {
  LayerWeights<T> weights[kMaxPersistentLayers];
  typename Policy::Tensors given[kMaxPersistentLayers];
  for (int i = 0; i < chains.chains * chains.depth; ++i) {
    const int own = opposite(chains, i), behind = i % chains.depth > 0 ? own + 1 : -1;
    const int64_t C = chains.layers[own].channels;
    const BackwardTensors<T>& a = tensors[own];
    weights[i] = {a.weight_h, behind < 0 ? nullptr : tensors[behind].weight_x, C, C, 4 * C, !chains.layers[own].reverse};
    given[i] = {a.grad_output, a.grad_c_n, a.peephole, a.c_0, a.gates, a.cells, grad_gates[own], a.grad_c_0,
                behind < 0 ? nullptr : grad_gates[behind]};
  }
  return launch_persistent(plan, chains, weights, given, workspace, stream);
}

}  // namespace

template <class T>
int64_t persistent_backward_workspace(const Chains& chains) {
  return with_plan<Backward, T, false>(chains, [](const auto& plan) { return plan.workspace(); });
}

template <class T>
int persistent_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* const* grad_gates,
                        accumulation_t<T>* workspace, Stream stream) {
  return with_plan<Backward, T, false>(
      chains, [&](const auto& plan) { return run(plan, chains, tensors, grad_gates, workspace, stream); });
}

#define INSTANTIATE(T)                                                                                           \
  template int64_t persistent_backward_workspace<T>(const Chains&);                                             \
  template int persistent_backward(const Chains&, const BackwardTensors<T>*, accumulation_t<T>* const*,         \
                                   accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
