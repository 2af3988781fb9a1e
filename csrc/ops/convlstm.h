// What the CPU and the CUDA implementation of the ops share: the types of arguments and results, and the checks.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>
#include <utility>

#include "gate.h"
#include "layer_arguments.h"
#include "ops/check_layer.h"

namespace pdb {

using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // output, c_n, reserve
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Positions in `needs` and in BackwardResult.
enum Gradient { kX, kWeightX, kWeightH, kBias, kPeephole, kH0, kC0, kGradients };

// What convlstm keeps for convlstm_backward besides its output: nothing, the activated gates and the cell states of
// every step, or only the cell states, from which backward computes the gates again.
enum class Save { nothing, gates_and_cells, cells };

// The reserve holds the gates in x's dtype, then the cells. It is an array of the accumulation type: float64 for
// float64, else float32. These return how many of its elements the gates take, and how many it has; sequence: elements
// of the output.
inline int64_t saved_gates_size(int64_t sequence, at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 ? 2 * sequence : 4 * sequence;
}
inline int64_t reserve_size(Save save, int64_t sequence, at::ScalarType dtype) {
  if (save == Save::nothing) return 0;
  return save == Save::cells ? sequence : saved_gates_size(sequence, dtype) + sequence;
}

// The gates, of type T, and the cells, of type A, in the reserve; null if it does not hold them.
template <class T, class A>
std::pair<T*, A*> split_reserve(Save save, const Layer& layer, A* reserve) {
  if (save == Save::nothing) return {nullptr, nullptr};
  if (save == Save::cells) return {nullptr, reserve};
  return {reinterpret_cast<T*>(reserve),
          reserve + kGateCount * layer.sequence() * int64_t(sizeof(T)) / int64_t(sizeof(A))};
}

// The arguments that convlstm and convlstm_backward have in common.
struct Inputs {
  const at::Tensor& x;             // (T, N, Cin, H, W)
  const at::Tensor& weight_x;      // (4C, Cin, k, k)
  const at::Tensor& weight_h;      // (4C, C, k, k)
  const OptionalTensor& bias;      // (4C)
  const OptionalTensor& peephole;  // (3, C, H, W)
  const OptionalTensor& h_0;       // (N, C, H, W), with c_0 or not at all
  const OptionalTensor& c_0;       // (N, C, H, W)
  int64_t dilation;
  bool reverse, peephole_current;
};

// Throws an error that names the argument and its expected and actual shape. Returns the layer with its dilation
// bounded. After this check no implementation can read outside a tensor.
Layer check_inputs(const char* op, const Inputs& inputs);

// Checks the argument `save` of convlstm.
Save check_save(int64_t save);

// Checks the additional arguments of convlstm_backward, which must have the shapes that convlstm returns. Returns what
// the reserve holds.
Save check_saved(const Layer& layer, const Inputs& inputs, const at::Tensor& output, const at::Tensor& reserve,
                 const OptionalTensor& grad_output, const OptionalTensor& grad_c_n);

}  // namespace pdb
