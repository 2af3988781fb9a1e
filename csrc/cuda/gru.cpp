// The time loops of the ConvGRU: which kernel works on which part of which array. Plain C++.
#include "cuda/common/gru.h"

#include <array>

#include "cuda/step/backward_parts.h"

namespace pdb::cuda {
namespace {

constexpr int kResetGates = gru_gates(GruHalf::reset), kUpdateGates = gru_gates(GruHalf::update);

// The rows of n in a weight (3C, channels, k, k).
template <class P>
P* update_rows(P* weight, const Layer& layer, int64_t channels) {
  return offset(weight, gru_first_gate(GruHalf::update) * layer.channels * channels * layer.taps());
}

// The weight gradients: of x, and of h for both halves, whose convolutions have different inputs.
std::array<WeightShape, 3> weight_shapes(const Layer& layer) {
  const int64_t C = layer.channels, all = kGruGateCount * C;
  return {WeightShape(layer, all, all, layer.in_channels), WeightShape(layer, kResetGates * C, all, C),
          WeightShape(layer, kUpdateGates * C, all, C)};
}

template <class T>
int64_t weight_tiles(const Layer& layer) {
  int64_t tiles = 0;
  for (const WeightShape& shape : weight_shapes(layer)) tiles += weight_gradient_tiles<T>(shape);
  return tiles;
}

// What backward writes besides its results, at the beginning of its workspace.
template <class T>
struct BackwardRoom {
  using A = accumulation_t<T>;
  T* grad_gates;  // (T, N, 3C, H, W)
  T* rh;          // (T, N, C, H, W)
  A* grad_h;      // (N, C, H, W)
  A* rest;

  BackwardRoom(const Layer& layer, A* room)
      : grad_gates(reinterpret_cast<T*>(take(room, units<T>(kGruGateCount * layer.sequence())))),
        rh(reinterpret_cast<T*>(take(room, units<T>(layer.sequence())))),
        grad_h(take(room, whole(layer.state()))),
        rest(room) {}

  static int64_t size(const Layer& layer) {
    return units<T>(kGruGateCount * layer.sequence()) + units<T>(layer.sequence()) + whole(layer.state());
  }
};

// Fills grad_gates and rh, step by step from the last to the first, and grad_h_0.
template <class T>
int through_time(const Layer& layer, const GruBackwardTensors<T>& tensors, const BackwardRoom<T>& room,
                 const accumulation_t<T>* reset_h, const accumulation_t<T>* update_h, Stream stream) {
  const Path<T> path(layer, stream);
  const int64_t state = layer.state();
  GruBackwardStep<T> step{};
  step.reset_h = reset_h;
  step.update_h = update_h;
  step.grad_h = room.grad_h;
  for (int64_t s = layer.steps - 1; s >= 0; --s) {
    const int64_t t = layer.frame(s);
    step.grad_output = offset(tensors.grad_output, t * state);
    step.gates = tensors.gates + t * kGruGateCount * state;
    step.h_previous = s > 0 ? tensors.output + layer.frame_before(t) * state : tensors.h_0;
    step.rh = room.rh + t * state;
    step.grad_gates = room.grad_gates + t * kGruGateCount * state;
    for (GruHalf half : {GruHalf::update, GruHalf::reset})
      if (int error = path.gru_backward_half(half, step)) return error;
    step.grad_gates_next = step.grad_gates;
  }
  if (!tensors.grad_h_0) return 0;
  step.grad_output = nullptr;
  step.grad_h_0 = tensors.grad_h_0;
  return path.gru_backward_half(GruHalf::update, step);
}

template <class T>
int weight_gradients(const Layer& layer, const GruBackwardTensors<T>& tensors, const BackwardRoom<T>& room,
                     accumulation_t<T>* workspace, Stream stream) {
  const int64_t images = layer.steps * layer.batch, state = layer.state(), C = layer.channels;
  const auto [of_x, of_reset, of_update] = weight_shapes(layer);
  WeightGradient<T> list[3];
  int count = 0;
  if (tensors.grad_weight_x)
    list[count++] = {of_x, {tensors.x, room.grad_gates, images}, {}, {nullptr, tensors.grad_weight_x, nullptr}};
  if (tensors.grad_weight_h) {
    // h_{t-1} is the output of the frame before t; at the first step it is h_0.
    const LaterSteps later(layer, Steps(layer, 0, layer.steps));
    ImagePairs<T> recurrent{}, first{};
    if (later.count > 0)
      recurrent = {tensors.output + layer.frame_before(later.first) * state,
                   room.grad_gates + later.first * kGruGateCount * state, later.count * layer.batch};
    if (tensors.h_0) first = {tensors.h_0, room.grad_gates + layer.first() * kGruGateCount * state, layer.batch};
    list[count++] = {of_reset, recurrent, first, {nullptr, tensors.grad_weight_h, nullptr}};
    const T* const grad_n = room.grad_gates + kGateN * C * layer.pixels();
    list[count++] = {
        of_update, {room.rh, grad_n, images}, {}, {nullptr, update_rows(tensors.grad_weight_h, layer, C), nullptr}};
  }
  if (tensors.grad_bias) {
    const BiasGradient<T> bias{
        room.grad_gates, images, kGruGateCount * C, layer.pixels(), {nullptr, tensors.grad_bias, nullptr}};
    if (int error = launch_bias_gradients(&bias, 1, stream)) return error;
  }
  return launch_weight_gradients(list, count, weight_tiles<T>(layer), workspace, stream);
}

}  // namespace

template <class T>
int64_t gru_forward_packed(const Layer& given) {
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer);
  int64_t all = 0;
  for (int64_t gates : {kResetGates, kUpdateGates})
    for (int64_t channels : {layer.in_channels, layer.channels}) all += path.packed(channels, Packing::gates, gates);
  return all;
}

template <class T>
int64_t gru_forward_workspace(const Layer& layer) {
  return whole(layer.state()) + units<T>(layer.state());
}

template <class T>
int gru_forward(const Layer& given, const GruForwardTensors<T>& tensors, Stream stream) {
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer, stream);
  const int64_t Cin = layer.in_channels, C = layer.channels, state = layer.state();
  accumulation_t<T>* room = tensors.workspace;
  Packer<T> packer(tensors.packed);
  GruForwardStep<T> step{};
  const auto add = [&](const T* weight, int64_t channels, int gates) {
    return packer.add(path.weight(weight, channels, Packing::gates, gates));
  };
  step.reset_x = add(tensors.weight_x, Cin, kResetGates);
  step.reset_h = add(tensors.weight_h, C, kResetGates);
  step.update_x = add(update_rows(tensors.weight_x, layer, Cin), Cin, kUpdateGates);
  step.update_h = add(update_rows(tensors.weight_h, layer, C), C, kUpdateGates);
  if (!tensors.is_packed)
    if (int error = packer.launch(stream)) return error;
  step.bias = tensors.bias;
  step.z = take(room, whole(state));
  step.rh = reinterpret_cast<T*>(room);
  step.h_previous = tensors.h_0;
  for (int64_t s = 0; s < layer.steps; ++s) {
    const int64_t t = layer.frame(s);
    step.x = tensors.x + t * layer.batch * Cin * layer.pixels();
    step.h = tensors.output + t * state;
    step.gates = offset(tensors.gates, t * kGruGateCount * state);
    for (GruHalf half : {GruHalf::reset, GruHalf::update})
      if (int error = path.gru_forward_half(half, step)) return error;
    step.h_previous = step.h;
  }
  return 0;
}

template <class T>
int64_t gru_backward_workspace(const Layer& given) {
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer);
  int64_t all = BackwardRoom<T>::size(layer) + path.packed(layer.in_channels, Packing::transposed, kGruGateCount);
  for (int64_t gates : {kResetGates, kUpdateGates}) all += path.packed(layer.channels, Packing::transposed, gates);
  for (const WeightShape& shape : weight_shapes(layer))
    all += weight_gradient_workspace<T>(shape, layer.steps * layer.batch, weight_tiles<T>(layer));
  return all;
}

template <class T>
int gru_backward(const Layer& given, const GruBackwardTensors<T>& tensors, Stream stream) {
  using A = accumulation_t<T>;
  const Layer layer = with_bounded_dilation(given);
  const Path<T> path(layer, stream);
  const int64_t C = layer.channels;
  const BackwardRoom<T> room(layer, tensors.workspace);
  Packer<T> packer(room.rest);
  const auto add = [&](const T* weight, int64_t channels, int gates) {
    return packer.add(path.weight(weight, channels, Packing::transposed, gates));
  };
  const A* const reset_h = add(tensors.weight_h, C, kResetGates);
  const A* const update_h = add(update_rows(tensors.weight_h, layer, C), C, kUpdateGates);
  const A* const weight_x = tensors.grad_x ? add(tensors.weight_x, layer.in_channels, kGruGateCount) : nullptr;
  if (int error = packer.launch(stream)) return error;
  if (int error = through_time(layer, tensors, room, reset_h, update_h, stream)) return error;
  if (tensors.grad_x) {
    const DataGradients<T> of_x{{{room.grad_gates, weight_x, layer.dilation}}, 1, nullptr};
    if (int error =
            path.input_gradient(layer.steps * layer.batch, layer.in_channels, of_x, tensors.grad_x, kGruGateCount))
      return error;
  }
  return weight_gradients(layer, tensors, room, packer.end(), stream);
}

#define INSTANTIATE(T)                                                         \
  template int64_t gru_forward_packed<T>(const Layer&);                        \
  template int64_t gru_forward_workspace<T>(const Layer&);                     \
  template int gru_forward(const Layer&, const GruForwardTensors<T>&, Stream); \
  template int64_t gru_backward_workspace<T>(const Layer&);                    \
  template int gru_backward(const Layer&, const GruBackwardTensors<T>&, Stream);
PDB_FOR_EACH_DTYPE(INSTANTIATE)

}  // namespace pdb::cuda
