// The time loop of forward: which kernel works on which part of which array. Plain C++.
#include "cuda/persistent/persistent.h"
#include "cuda/step/kernel_set.h"

namespace pdb::cuda {
namespace {

// Elements of the workspace of a persistent launch of this layer; 0: it runs step by step.
template <class T>
int64_t persistent_forward_size(const Layer& layer) {
  return layer.persistent ? persistent_forward_workspace<T>({&layer, 1, 1}) : 0;
}

}  // namespace

template <class T>
int64_t forward_packed(const Layer& given) {
  const Layer layer = with_bounded_dilation(given);
  if (persistent_forward_size<T>(layer)) return persistent_forward_packed<T>({&layer, 1, 1});
  const Path<T> path(layer);
  return path.packed(layer.in_channels, Packing::gates) + path.packed(layer.channels, Packing::gates);
}

template <class T>
int64_t forward_workspace(const Layer& given, bool cells) {
  const Layer layer = with_bounded_dilation(given);
  if (const int64_t size = persistent_forward_size<T>(layer)) return size;
  return cells ? 0 : layer.state();
}

template <class T>
int forward(const Layer& given, const ForwardTensors<T>& tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  if (persistent_forward_size<T>(layer))
    return persistent_forward({&layer, 1, 1}, &tensors, {tensors.packed, tensors.is_packed}, tensors.workspace, stream);
  const Path<T> path(layer, stream);
  const int64_t Cin = layer.in_channels, state = layer.state();
  A* const running_c = tensors.workspace;  // used if the steps' cell states are not kept
  Packer<T> packer(tensors.packed);
  ForwardStep<T> step{};
  step.weight_x = packer.add(path.weight(tensors.weight_x, Cin, Packing::gates));
  step.weight_h = packer.add(path.weight(tensors.weight_h, layer.channels, Packing::gates));
  if (!tensors.is_packed)
    if (int error = packer.launch(stream)) return error;
  step.bias = tensors.bias;
  step.peephole = tensors.peephole;
  step.h_previous = tensors.h_0;
  step.c_0 = tensors.c_0;
  for (int64_t s = 0; s < layer.steps; ++s) {
    const int64_t t = layer.frame(s);
    step.x = tensors.x + t * layer.batch * Cin * layer.pixels();
    step.h = tensors.output + t * state;
    step.c = tensors.cells ? tensors.cells + t * state : running_c;
    step.c_n = s == layer.steps - 1 ? tensors.c_n : nullptr;
    step.gates = offset(tensors.gates, t * 4 * state);
    if (int error = path.forward_step(step)) return error;
    step.h_previous = step.h;
    step.c_previous = step.c;
  }
  return 0;
}

#define INSTANTIATE(T)                                       \
  template int64_t forward_packed<T>(const Layer&);          \
  template int64_t forward_workspace<T>(const Layer&, bool); \
  template int forward(const Layer&, const ForwardTensors<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
