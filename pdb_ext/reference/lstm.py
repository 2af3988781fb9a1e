"""The dilated ConvLSTM in plain PyTorch: the definition that every other implementation is measured against."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pdb_ext.checks import check_inputs


def convlstm(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    *,
    dilation: int = 1,
    reverse: bool = False,
    output_peephole: str = "previous",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Results and errors as :func:`pdb_ext.convlstm`; its arguments without those that choose how to compute them."""
    check_inputs(x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole)
    return convlstm_of_checked(x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole)


def convlstm_of_checked(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    state: tuple[Tensor, Tensor] | None,
    dilation: int,
    reverse: bool,
    output_peephole: str,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The same for arguments that `check_inputs` has seen already; `torch.jit.script` can compile it."""
    T, N, _, H, W = x.shape
    C, kh, kw = weight_h.shape[1:]
    padding = [dilation * (kh // 2), dilation * (kw // 2)]
    peepholes = torch.broadcast_to(peephole, [3, C, H, W]) if peephole is not None else x.new_zeros([3])
    h, c = state if state is not None else (x.new_zeros([N, C, H, W]), x.new_zeros([N, C, H, W]))

    outputs: list[Tensor] = []
    for step in range(T):
        t = T - 1 - step if reverse else step
        gates = conv2d(x[t], weight_x, bias, padding=padding, dilation=dilation)
        gates = gates + conv2d(h, weight_h, padding=padding, dilation=dilation)
        h, c = cell(gates, c, peepholes, output_peephole)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs), (h, c)


def cell(gates: Tensor, c: Tensor, peepholes: Tensor, output_peephole: str) -> tuple[Tensor, Tensor]:
    """(h_t, c_t) from the sums of a step's convolutions and bias, (N, 4C, H, W) in the order i, f, o, g, and c_{t-1}.

    peepholes: (3, C, H, W), or three zeros for none.
    """
    i, f, o, g = gates.chunk(4, dim=1)
    i = torch.sigmoid(i + peepholes[0] * c)
    f = torch.sigmoid(f + peepholes[1] * c)
    c_previous = c
    c = f * c + i * torch.tanh(g)
    o = torch.sigmoid(o + peepholes[2] * (c if output_peephole == "current" else c_previous))
    return o * torch.tanh(c), c
