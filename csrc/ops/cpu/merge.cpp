// merge: Eq. 5 of Song et al. 2018, tanh(conv(h_f, weight_f) + conv(h_b, weight_b) + bias), on CPU tensors. On other
// devices PyTorch's own operators compute it.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "ops/cpu/tensors.h"

namespace pdb::cpu {
namespace {

void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef shape, const at::Tensor& like) {
  TORCH_CHECK(tensor.sizes() == shape, "merge: ", name, " must have shape ", shape, ", got ", tensor.sizes());
  const bool alike = tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device();
  TORCH_CHECK(alike && tensor.layout() == at::kStrided, "merge: ", name,
              " must be strided and have the dtype and device of h_f, ", like.scalar_type(), " on ", like.device(),
              ", got ", tensor.scalar_type(), " on ", tensor.device());
}

// The sizes, as those of a layer with C input channels and C channels.
Layer check_merge(const at::Tensor& h_f, const at::Tensor& h_b, const at::Tensor& weight_f, const at::Tensor& weight_b,
                  const OptionalTensor& bias, int64_t dilation) {
  TORCH_CHECK(h_f.dim() == 5 && h_f.size(0) > 0 && h_f.size(2) > 0 && h_f.size(3) > 0 && h_f.size(4) > 0,
              "merge: h_f must have shape (T, N, C, H, W) with T, C, H and W of at least 1, got ", h_f.sizes());
  TORCH_CHECK(weight_f.dim() == 4 && weight_f.size(3) % 2 == 1,
              "merge: weight_f must have shape (C, C, k, k) with an odd k, got ", weight_f.sizes());
  TORCH_CHECK(dilation > 0, "merge: dilation must be at least 1, got ", dilation);
  const int64_t C = h_f.size(2), H = h_f.size(3), W = h_f.size(4), k = weight_f.size(3);
  check_shape("h_f", h_f, h_f.sizes(), h_f);
  check_shape("h_b", h_b, h_f.sizes(), h_f);
  check_shape("weight_f", weight_f, {C, C, k, k}, h_f);
  check_shape("weight_b", weight_b, {C, C, k, k}, h_f);
  if (bias) check_shape("bias", *bias, {C}, h_f);
  return with_bounded_dilation({h_f.size(0), h_f.size(1), C, C, H, W, k, dilation});
}

at::Tensor merge_op(const at::Tensor& h_f, const at::Tensor& h_b, const at::Tensor& weight_f,
                    const at::Tensor& weight_b, const OptionalTensor& bias, int64_t dilation) {
  const Layer layer = check_merge(h_f, h_b, weight_f, weight_b, bias, dilation);
  const at::Tensor output = at::empty(h_f.sizes(), h_f.options());
  const at::Tensor weight_f_ = weight_f.contiguous(), weight_b_ = weight_b.contiguous();
  const OptionalTensor bias_ = contiguous(bias);
  AT_DISPATCH_FLOATING_TYPES(h_f.scalar_type(), "merge", [&] {
    using T = scalar_t;
    const MergeTensors<T> tensors{read_frames<T>(h_f), read_frames<T>(h_b), read<T>(weight_f_),
                                  read<T>(weight_b_),  read<T>(bias_),      write<T>(output)};
    merge(layer, tensors, torch_threads());
  });
  return output;
}

}  // namespace

// h_f, h_b (T, N, C, H, W), weights (C, C, k, k), bias (C); "same" zero padding. The result has the dtype and shape of
// h_f and is contiguous.
TORCH_LIBRARY_FRAGMENT(pdb_ext, m) {
  m.def("merge(Tensor h_f, Tensor h_b, Tensor weight_f, Tensor weight_b, Tensor? bias, int dilation) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pdb_ext, CPU, m) { m.impl("merge", merge_op); }

}  // namespace pdb::cpu
