"""The dilated ConvLSTM in plain PyTorch: the definition that every other implementation is measured against."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, layer_norm, pad

from pdb_ext.checks import check_cell_options, check_inputs


class CellOptions(NamedTuple):
    """What a cell may do otherwise than the native op, whose cell has these defaults; see :func:`pdb_ext.convlstm`."""

    padding_mode: str = "zeros"
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    norm: str | None = None
    num_groups: int = 1
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    recurrent_mask: Tensor | None = None


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
    **cell_options,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Results and errors as :func:`pdb_ext.convlstm`; its arguments without those that choose how to compute them.

    cell_options: the fields of :class:`CellOptions`.
    """
    options = CellOptions(**cell_options)
    check_inputs(x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole)
    check_cell_options(x, weight_h, dilation, options)
    return convlstm_of_checked(
        x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole, options
    )


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
    options: CellOptions,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The same for arguments that were checked already; `torch.jit.script` can compile it."""
    T, N, _, H, W = x.shape
    C = weight_h.shape[1]
    peepholes = torch.broadcast_to(peephole, [3, C, H, W]) if peephole is not None else x.new_zeros([3])
    h, c = state if state is not None else (x.new_zeros([N, C, H, W]), x.new_zeros([N, C, H, W]))
    mask = options.recurrent_mask

    outputs: list[Tensor] = []
    for step in range(T):
        t = T - 1 - step if reverse else step
        gates = convolve(x[t], weight_x, bias, dilation, options.padding_mode)
        h = h * mask if mask is not None else h
        gates = normalise(gates + convolve(h, weight_h, None, dilation, options.padding_mode), options)
        h, c = cell(gates, c, peepholes, output_peephole, options.activation, options.recurrent_activation)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs), (h, c)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, padding_mode: str) -> Tensor:
    """The convolution with "same" padding, which padding_mode fills as that of `torch.nn.Conv2d` does."""
    ph, pw = dilation * (weight.shape[2] // 2), dilation * (weight.shape[3] // 2)
    if padding_mode == "zeros":
        return conv2d(x, weight, bias, padding=[ph, pw], dilation=dilation)
    return conv2d(pad(x, [pw, pw, ph, ph], padding_mode), weight, bias, dilation=dilation)


def normalise(gates: Tensor, options: CellOptions) -> Tensor:
    """GroupNorm over the 4C rows together, LayerNorm over the 4C rows of each pixel, or neither."""
    norm = options.norm
    if norm is None:
        return gates
    if norm == "group":
        normal = group_norm(gates, options.num_groups, options.norm_weight, options.norm_bias)
    else:
        rows = gates.shape[1]
        normal = layer_norm(gates.movedim(1, -1), [rows], options.norm_weight, options.norm_bias).movedim(-1, 1)
    return normal.to(gates.dtype)  # autocast may have normalised in float32


def cell(
    gates: Tensor,
    c: Tensor,
    peepholes: Tensor,
    output_peephole: str,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
) -> tuple[Tensor, Tensor]:
    """(h_t, c_t) from the sums of a step's convolutions and bias, (N, 4C, H, W) in the order i, f, o, g, and c_{t-1}.

    peepholes: (3, C, H, W), or three zeros for none.
    """
    i, f, o, g = gates.chunk(4, dim=1)
    i = activate(i + peepholes[0] * c, recurrent_activation)
    f = activate(f + peepholes[1] * c, recurrent_activation)
    c_previous = c
    c = f * c + i * activate(g, activation)
    o = activate(o + peepholes[2] * (c if output_peephole == "current" else c_previous), recurrent_activation)
    return o * activate(c, activation), c


def activate(x: Tensor, name: str) -> Tensor:
    """name: one of `pdb_ext.checks.ACTIVATIONS`."""
    if name == "tanh":
        return torch.tanh(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "relu":
        return torch.relu(x)
    if name == "hard_sigmoid":  # as torch.nn.Hardsigmoid, which has no second derivative
        return torch.clamp(x / 6 + 0.5, 0, 1)
    return torch.clamp(0.2 * x + 0.5, 0, 1)  # hard_sigmoid_keras2
