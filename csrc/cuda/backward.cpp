// Backward of a layer, or of several in one launch: which kernel works on which part of which array. Plain C++.
#include <algorithm>

#include "cuda/persistent/persistent.h"
#include "cuda/step/backward_parts.h"

namespace pdb::cuda {
namespace {

// Without saved gates, over more than two chunks, memory is what matters: only two chunks of gate gradients are kept.
constexpr int64_t kChunkSteps = 4;

// Layers whose steps run together: in one persistent launch or, a single layer, step by step.
template <class T>
class BackwardPass {
 public:
  using A = accumulation_t<T>;

  // gates: whether they are saved. In chunks the chains have one layer each. Messages number layer i as first_number +
  // i * number_step.
  BackwardPass(const Chains& chains, bool gates, int first_number = 0, int number_step = 1)
      : chains_(chains),
        first_number_(first_number),
        number_step_(number_step),
        count_(chains.chains * chains.depth),
        saved_(gates),
        chunked_(backward_in_chunks(chains.layers[0], gates)),
        steps_(chains.layers[0].steps),
        chunk_(chunked_ ? kChunkSteps : steps_) {
    for (int i = 0; i < count_; ++i) works_[i].layer = layers_[i] = with_bounded_dilation(chains.layers[i]);
    chains_.layers = layers_;
    if (!layers_[0].persistent) return;
    persistent_ = persistent_backward_workspace<T>(chains_of(chunk_));
    persistent_packed_ = persistent_backward_packed<T>(chains_of(chunk_));
  }
  BackwardPass(const BackwardPass&) = delete;

  bool is_persistent() const { return persistent_ > 0; }

  int64_t workspace() const {
    int64_t all = persistent_packed_ + std::max(persistent_, weight_gradient_room(works_, count_, chunk_));
    const Layer wide = widest(works_, count_);
    for (int i = 0; i < count_; ++i) {
      const Path<T> own(layers_[i]);
      all += own.packed(layers_[i].channels, Packing::transposed) + whole(Sums<T>::size(layers_[i]) * chunked_) +
             Path<T>(wide).packed(layers_[i].in_channels, Packing::transposed) +
             (chunked_ ? 2 : 1) * grad_gates_units(i) + whole(layers_[i].state());
      if (!saved_)
        all += own.packed(layers_[i].channels, Packing::gates) + own.packed(layers_[i].in_channels, Packing::gates);
    }
    return all;
  }

  int run(const BackwardTensors<T>* tensors, A* workspace, Stream stream) {
    A* room = workspace;
    A* rooms[kMaxPersistentLayers] = {};  // of the gate gradients
    for (int i = 0; i < count_; ++i) {
      works_[i].tensors = tensors[i];
      rooms[i] = take(room, (chunked_ ? 2 : 1) * grad_gates_units(i));
      works_[i].grad_c = take(room, whole(layers_[i].state()));
      if (chunked_) works_[i].sums = Sums<T>(layers_[i], take(room, whole(Sums<T>::size(layers_[i]))));
    }
    if (int error = pack(room, stream)) return error;
    persistent_weights_ = {take(room, persistent_packed_), false};
    bool second = false;
    for (int64_t end = steps_; end > 0; end = std::max<int64_t>(end - chunk_, 0), second = !second) {
      const Steps steps(works_[0].layer, std::max<int64_t>(end - chunk_, 0), end);
      // The gate gradients of the later chunk are still needed: those of its first step are read.
      for (int i = 0; i < count_; ++i)
        works_[i].grad_gates = reinterpret_cast<T*>(rooms[i] + second * grad_gates_units(i));
      if (int error = through_time(steps, room, stream)) return error;
      if (int error = batched(steps, room, stream)) return error;
    }
    return 0;
  }

 private:
  int64_t grad_gates_units(int i) const { return units<T>(4 * chunk_ * layers_[i].state()); }

  // The chains with this many steps.
  Chains chains_of(int64_t steps) {
    for (int i = 0; i < count_; ++i) layers_[i].steps = steps;
    return chains_;
  }

  // Packs each weight in the forms in which it is needed. `room` is moved past them.
  int pack(A*& room, Stream stream) {
    Packer<T> packer(room);
    const Layer wide = widest(works_, count_);
    for (int i = 0; i < count_; ++i) {
      LayerWork<T>& work = works_[i];
      const Layer& layer = work.layer;
      const Path<T> path(layer);
      if (!is_persistent() || work.tensors.grad_h_0)
        work.weight_h = packer.add(path.weight(work.tensors.weight_h, layer.channels, Packing::transposed));
      if (work.tensors.grad_x)
        work.weight_x = packer.add(Path<T>(wide).weight(work.tensors.weight_x, layer.in_channels, Packing::transposed));
      if (saved_) continue;
      work.gates_weight_h = packer.add(path.weight(work.tensors.weight_h, layer.channels, Packing::gates));
      work.gates_weight_x = packer.add(path.weight(work.tensors.weight_x, layer.in_channels, Packing::gates));
    }
    room = packer.end();
    return packer.launch(stream);
  }

  // Fills the gate gradients of these steps.
  int through_time(const Steps& steps, A* room, Stream stream) {
    for (int i = 0; i < count_; ++i) {
      LayerWork<T>& work = works_[i];
      const BackwardTensors<T>& tensors = work.tensors;
      work.gates = saved_ ? tensors.gates : work.grad_gates;
      // Recomputed gates lie where their gradients will: each is read for the last time just when its gradient is
      // written.
      if (!saved_)
        if (int error = recompute_gates(work.layer, tensors, steps, work.gates_weight_x, work.gates_weight_h,
                                        work.grad_gates, stream))
          return error;
      if (!is_persistent())
        if (int error = backward_through_time(work, steps, stream)) return error;
    }
    if (is_persistent())
      if (int error = launch(steps, room, stream)) return error;
    for (int i = 0; i < count_; ++i)
      works_[i].grad_gates_after =
          works_[i].grad_gates + (works_[i].layer.frame(steps.begin) - steps.first) * 4 * works_[i].layer.state();
    return 0;
  }

  // All of the steps in one launch.
  int launch(const Steps& steps, A* room, Stream stream) {
    BackwardTensors<T> tensors[kMaxPersistentLayers];
    Connection<T> connections[kMaxPersistentLayers];
    T* grad_gates[kMaxPersistentLayers] = {};
    for (int i = 0; i < count_; ++i) {
      const LayerWork<T>& work = works_[i];
      const int64_t state = work.layer.state(), first = steps.first * state;
      const bool begins = steps.begin == 0, ends = steps.end == steps_;
      tensors[i] = work.tensors;
      tensors[i].grad_output = offset(work.tensors.grad_output, first);
      tensors[i].cells = work.tensors.cells + first;
      tensors[i].gates = work.gates;
      grad_gates[i] = work.grad_gates;
      connections[i] = {work.grad_gates_after,
                        ends ? nullptr : work.grad_c,
                        begins ? nullptr : work.grad_c,
                        begins ? nullptr : work.tensors.cells + work.layer.frame(steps.begin - 1) * state,
                        first_number_ + i * number_step_,
                        int(steps.begin)};
    }
    const PackedWeights<T> packed = persistent_weights_;
    persistent_weights_.is_packed = true;  // for the next chunk
    return persistent_backward(chains_of(steps.count()), tensors, grad_gates, connections, packed, room, stream);
  }

  int batched(const Steps& steps, A* room, Stream stream) {
    for (int i = 0; i < count_; ++i) works_[i].sums.ends = steps.begin == 0;
    if (int error = batched_gradients(works_, count_, steps, room, stream)) return error;
    for (int i = 0; i < count_; ++i) works_[i].sums.begun = true;
    return 0;
  }

  Chains chains_;
  int first_number_, number_step_, count_;
  bool saved_, chunked_;
  int64_t steps_, chunk_, persistent_ = 0, persistent_packed_ = 0;
  PackedWeights<T> persistent_weights_{};
  Layer layers_[kMaxPersistentLayers] = {};  // as passed to a persistent launch
  LayerWork<T> works_[kMaxPersistentLayers] = {};
};

// The layers d of all chains, side by side.
struct Level {
  Layer layers[kMaxPersistentLayers] = {};
  int chains;

  Level(const Chains& all, int d) : chains(all.chains) {
    for (int i = 0; i < chains; ++i) layers[i] = all.layers[i * all.depth + d];
  }
  Chains alone() const { return {layers, chains, 1}; }
};

// The levels one after the other, from the last; the gradient that reaches the output of the layers before lies in
// `behind`.
template <class T>
int backward_by_levels(const Chains& chains, const BackwardTensors<T>* tensors, bool gates,
                       accumulation_t<T>* workspace, Stream stream) {
  const int64_t sequence = chains.layers[0].steps * chains.layers[0].state();
  T* const behind = reinterpret_cast<T*>(workspace);
  for (int d = chains.depth - 1; d >= 0; --d) {
    const Level level(chains, d);
    BackwardTensors<T> own[kMaxPersistentLayers];
    for (int i = 0; i < chains.chains; ++i) {
      T* const of_chain = behind + i * sequence;
      own[i] = tensors[i * chains.depth + d];
      if (d > 0) own[i].grad_x = of_chain, own[i].grad_x_before = tensors[i * chains.depth + d - 1].grad_output;
      if (d + 1 < chains.depth) own[i].grad_output = of_chain;
    }
    BackwardPass<T> pass(level.alone(), gates, d, chains.depth);
    if (int error = pass.run(own, workspace + units<T>(chains.chains * sequence), stream)) return error;
  }
  return 0;
}

}  // namespace

bool backward_in_chunks(const Layer& layer, bool gates) { return !gates && layer.steps > 2 * kChunkSteps; }

template <class T>
int64_t backward_workspace(const Layer& layer, bool gates) {
  return BackwardPass<T>({&layer, 1, 1}, gates).workspace();
}

template <class T>
int backward(const Layer& layer, const BackwardTensors<T>& tensors, Stream stream) {
  return BackwardPass<T>({&layer, 1, 1}, tensors.gates != nullptr).run(&tensors, tensors.workspace, stream);
}

template <class T>
int64_t chains_backward_workspace(const Chains& chains, bool gates) {
  if (chains.depth == 1 || !backward_in_chunks(chains.layers[0], gates)) {
    const BackwardPass<T> pass(chains, gates);
    return pass.is_persistent() ? pass.workspace() : 0;
  }
  int64_t work = 0;
  for (int d = 0; d < chains.depth; ++d) {
    const Level level(chains, d);
    const BackwardPass<T> pass(level.alone(), gates);
    if (!pass.is_persistent()) return 0;
    work = std::max(work, pass.workspace());
  }
  return units<T>(chains.chains * chains.layers[0].steps * chains.layers[0].state()) + work;
}

template <class T>
int chains_backward(const Chains& chains, const BackwardTensors<T>* tensors, accumulation_t<T>* workspace,
                    Stream stream) {
  const bool gates = tensors[0].gates != nullptr;
  if (chains.depth > 1 && backward_in_chunks(chains.layers[0], gates))
    return backward_by_levels(chains, tensors, gates, workspace, stream);
  return BackwardPass<T>(chains, gates).run(tensors, workspace, stream);
}

#define INSTANTIATE(T)                                                    \
  template int64_t backward_workspace<T>(const Layer&, bool);             \
  template int backward(const Layer&, const BackwardTensors<T>&, Stream); \
  template int64_t chains_backward_workspace<T>(const Chains&, bool);     \
  template int chains_backward(const Chains&, const BackwardTensors<T>*, accumulation_t<T>*, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
