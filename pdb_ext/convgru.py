"""`convgru`: the public function, and the fake kernels of the native op."""

import torch
from torch import Tensor
from torch.fx import Proxy

from . import reference
from ._library import native
from .checks import check_gru_inputs, check_implementation
from .ops import autocast, in_computed_dtype, is_native, record_call


def convgru(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None = None,
    h_0: Tensor | None = None,
    *,
    dilation: int = 1,
    reverse: bool = False,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One ConvGRU layer over a whole sequence, with dilated convolutions (`*`) and "same" zero padding::

        r_t = sigmoid(W_xr * x_t + W_hr * h_{t-1} + b_r)
        z_t = sigmoid(W_xz * x_t + W_hz * h_{t-1} + b_z)
        n_t = tanh   (W_xn * x_t + W_hn * (r_t . h_{t-1}) + b_n)
        h_t = (1 - z_t) . n_t + z_t . h_{t-1}

    The reset gate acts before the convolution, as in Ballas et al., "Delving Deeper into Convolutional Networks for
    Learning Video Representations" (ICLR 2016), whose z is 1 - z_t here: the order of the gates and the meaning of z
    are those of `torch.nn.GRU` (which resets after the product). Weights for h_t = (1 - z_t) . h_{t-1} + z_t . n_t
    fit after a change of sign of the rows of z in weight_x, weight_h and bias, as sigmoid(-a) = 1 - sigmoid(a).

    Args:
        x: input, (T, N, Cin, H, W); float32, float64, float16 or bfloat16 (the CPU computes the last two in float32).
        weight_x: input-to-gates weight, (3C, Cin, kh, kw), kh and kw odd. The 3C rows are the gates r, z, n, C rows
            each. The native op has square kernels; others are computed by the reference.
        weight_h: hidden-to-gates weight, (3C, C, kh, kw); the rows of n read r_t . h_{t-1}.
        bias: (3C,).
        h_0: (N, C, H, W); zeros if None.
        dilation: dilation of all convolutions, at least 1.
        reverse: run t = T-1 ... 0. Outputs stay in frame order, and h_n is then the state at frame 0.
        implementation: "auto" uses the native op where it can; "reference" uses PyTorch's own operators alone
            (:func:`pdb_ext.reference.convgru`, one step after the other): for gradients of gradients. ONNX export
            always takes the latter.

    Returns:
        output (T, N, C, H, W), every h_t in frame order; and h_n (N, C, H, W), the last state.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or value; the message names it.
        TypeError: an argument that must be a tensor is not one.

    Derivatives, `torch.fx`, export and infinities: as :func:`pdb_ext.convlstm`.
    """
    if isinstance(x, Proxy):
        options = {"dilation": dilation, "reverse": reverse, "implementation": implementation}
        return record_call(convgru, x, weight_x, weight_h, bias, h_0, **options)
    check_gru_inputs(x, weight_x, weight_h, bias, h_0, dilation, reverse)
    check_implementation(implementation, "convgru")
    tensors = autocast(x, weight_x, weight_h, bias, h_0)
    if not is_native(tensors, implementation, "ConvGRU"):
        return reference.convgru_of_checked(*tensors, dilation, reverse)
    dtype = tensors[0].dtype
    tensors = in_computed_dtype(tensors)
    save = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    output, _ = torch.ops.pdb_ext.convgru(*tensors, dilation, reverse, save)
    output = output.to(dtype)
    return output, (output[0] if reverse else output[-1]).clone()  # a view would keep all of output alive


def _fake_convgru(x, weight_x, weight_h, bias, h_0, dilation, reverse, save):
    T, N, _, H, W = x.shape
    C = weight_h.shape[1]
    return x.new_empty(T, N, C, H, W), x.new_empty(3 * T * N * C * H * W if save else 0)


def _fake_convgru_backward(grad_output, x, weight_x, weight_h, h_0, output, gates, dilation, reverse, needs):
    shapes = [x.shape, weight_x.shape, weight_h.shape, weight_h.shape[:1], output.shape[1:]]
    return tuple(x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs))


if native is not None:
    torch.library.register_fake("pdb_ext::convgru")(_fake_convgru)
    torch.library.register_fake("pdb_ext::convgru_backward")(_fake_convgru_backward)
