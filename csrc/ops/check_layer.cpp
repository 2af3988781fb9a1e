// See check_layer.h.
#include "ops/check_layer.h"

namespace pdb {

void check_tensor(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                  const at::Tensor& x) {
  TORCH_CHECK(tensor.sizes() == shape, op, ": ", name, " must have shape ", shape, ", got ", tensor.sizes());
  TORCH_CHECK(tensor.device() == x.device(), op, ": ", name, " must be on the device of x, ", x.device(), ", got ",
              tensor.device());
  TORCH_CHECK(tensor.layout() == at::kStrided, op, ": ", name, " must be a strided tensor, got ", tensor.layout());
}

void check_like_x(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                  const at::Tensor& x) {
  check_tensor(op, name, tensor, shape, x);
  TORCH_CHECK(tensor.scalar_type() == x.scalar_type(), op, ": ", name, " must have the dtype of x, ", x.scalar_type(),
              ", got ", tensor.scalar_type());
}

void check_optional(const char* op, const char* name, const OptionalTensor& tensor, at::IntArrayRef shape,
                    const at::Tensor& x) {
  if (tensor) check_like_x(op, name, *tensor, shape, x);
}

Layer check_layer(const char* op, int64_t gates, const at::Tensor& x, const at::Tensor& weight_x,
                  const at::Tensor& weight_h, const OptionalTensor& bias, const OptionalTensor& h_0, int64_t dilation,
                  bool reverse) {
  TORCH_CHECK(x.dim() == 5, op, ": x must have shape (T, N, Cin, H, W), got ", x.sizes());
  TORCH_CHECK(x.size(0) > 0 && x.size(2) > 0 && x.size(3) > 0 && x.size(4) > 0, op,
              ": x must have T, Cin, H and W of at least 1, got ", x.sizes());
  TORCH_CHECK(at::isFloatingType(x.scalar_type()), op, ": x must be of a floating dtype, got ", x.scalar_type());
  TORCH_CHECK(weight_h.dim() == 4 && weight_h.size(1) > 0 && weight_h.size(2) % 2 == 1, op,
              ": weight_h must have shape (", gates, "C, C, k, k) with an odd k, got ", weight_h.sizes());
  TORCH_CHECK(dilation > 0, op, ": dilation must be at least 1, got ", dilation);
  const int64_t C = weight_h.size(1), k = weight_h.size(2);
  const Layer l =
      with_bounded_dilation({x.size(0), x.size(1), x.size(2), C, x.size(3), x.size(4), k, dilation, reverse});
  check_like_x(op, "x", x, x.sizes(), x);
  check_like_x(op, "weight_h", weight_h, {gates * C, C, k, k}, x);
  check_like_x(op, "weight_x", weight_x, {gates * C, l.in_channels, k, k}, x);
  check_optional(op, "bias", bias, {gates * C}, x);
  check_optional(op, "h_0", h_0, {l.batch, C, l.height, l.width}, x);
  return l;
}

}  // namespace pdb
