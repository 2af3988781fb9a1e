"""The dilated ConvGRU in plain PyTorch: the definition that every other implementation is measured against."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pdb_ext.checks import check_gru_inputs


def convgru(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None = None,
    h_0: Tensor | None = None,
    *,
    dilation: int = 1,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Results and errors as :func:`pdb_ext.convgru`; its arguments without the one that chooses how to compute them."""
    check_gru_inputs(x, weight_x, weight_h, bias, h_0, dilation, reverse)
    return convgru_of_checked(x, weight_x, weight_h, bias, h_0, dilation, reverse)


def convgru_of_checked(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None,
    h_0: Tensor | None,
    dilation: int,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The same for arguments that `check_gru_inputs` has seen already; `torch.jit.script` can compile it."""
    T, N, _, H, W = x.shape
    C, kh, kw = weight_h.shape[1:]
    padding = [dilation * (kh // 2), dilation * (kw // 2)]
    h = h_0 if h_0 is not None else x.new_zeros([N, C, H, W])

    outputs: list[Tensor] = []
    for step in range(T):
        t = T - 1 - step if reverse else step
        h = gru_step(conv2d(x[t], weight_x, bias, padding=padding, dilation=dilation), h, weight_h, padding, dilation)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs), h


def gru_step(of_x: Tensor, h: Tensor, weight_h: Tensor, padding: list[int], dilation: int) -> Tensor:
    """h_t from the convolution of x_t with its bias, (N, 3C, H, W) in the order r, z, n, and h_{t-1}."""
    C = h.shape[1]
    x_r_z, x_n = of_x.split([2 * C, C], dim=1)
    weight_r_z, weight_n = weight_h.split([2 * C, C])
    r, z = torch.sigmoid(x_r_z + conv2d(h, weight_r_z, padding=padding, dilation=dilation)).chunk(2, dim=1)
    n = torch.tanh(x_n + conv2d(r * h, weight_n, padding=padding, dilation=dilation))
    return (1 - z) * n + z * h
