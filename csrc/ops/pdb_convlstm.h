// What the implementations of pdb_convlstm share: its arguments, branch by branch and layer by layer.
#pragma once

#include <vector>

#include "ops/convlstm.h"

namespace pdb {

using Parameters = at::TensorList;

// `parameters` lists, for each branch, those of its forward layer, then those of its backward layer. Each layer has
// this many tensors, as convlstm takes them; an absent one is a tensor without elements.
constexpr int64_t kLayerParameters = 6;
enum Parameter { kParameterWeightX, kParameterWeightH, kParameterBias, kParameterPeephole, kParameterH0, kParameterC0 };

// The parameters of layer 2 * branch + direction. Throws if a required one is missing.
struct PdbLayer {
  at::Tensor weight_x, weight_h;
  OptionalTensor bias, peephole, h_0, c_0;

  PdbLayer(Parameters parameters, int64_t layer);
};

using PdbResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// The implementation for every device: one convlstm after the other.
PdbResult pdb_convlstm_by_layers(const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations,
                                 bool peephole_current, int64_t save);
std::vector<at::Tensor> pdb_convlstm_backward_by_layers(const OptionalTensor& grad_output,
                                                        const OptionalTensor& grad_c_n, const at::Tensor& x,
                                                        Parameters parameters, const at::Tensor& output,
                                                        const at::Tensor& reserve, at::IntArrayRef dilations,
                                                        bool peephole_current, at::ArrayRef<bool> needs);

// Checks the arguments as a whole and throws an error that names what is wrong; convlstm checks the rest.
void check_pdb(const char* op, const at::Tensor& x, Parameters parameters, at::IntArrayRef dilations);

}  // namespace pdb
