"""The ways people compute a ConvLSTM layer in PyTorch today, as peers for the benchmarks.

Every peer has the signature layer(x, weight_x, weight_h, bias, dilation, reverse) -> output, all tensors time-major as
in `pdb_ext.convlstm`, and every peer gets its weights as separate tensors: concatenating them is part of its work.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import pdb_ext


def _cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def in_order(T: int, reverse: bool):
    return range(T - 1, -1, -1) if reverse else range(T)


def naive(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    """The naive implementation: one convolution of cat(x_t, h), chunk, gates."""
    T, N, _, H, W = x.shape
    weight = torch.cat([weight_x, weight_h], dim=1)
    padding = dilation * (weight.shape[-1] // 2)
    h = c = x.new_zeros(N, weight_h.shape[1], H, W)
    outputs = [h] * T
    for t in in_order(T, reverse):
        h, c = _cell(conv2d(torch.cat([x[t], h], dim=1), weight, bias, padding=padding, dilation=dilation), c)
        outputs[t] = h
    return torch.stack(outputs)


def hoisted(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    """The input convolution of all steps at once, before the loop."""
    T, N, _, H, W = x.shape
    padding = dilation * (weight_x.shape[-1] // 2)
    gates_x = conv2d(x.flatten(0, 1), weight_x, bias, padding=padding, dilation=dilation).unflatten(0, (T, N))
    h = c = x.new_zeros(N, weight_h.shape[1], H, W)
    outputs = [h] * T
    for t in in_order(T, reverse):
        h, c = _cell(gates_x[t] + conv2d(h, weight_h, padding=padding, dilation=dilation), c)
        outputs[t] = h
    return torch.stack(outputs)


def in_channels_last(layer):
    """The same with frames and weights in channels_last, the layout that CPU convolutions prefer."""

    def run(x, weight_x, weight_h, bias, dilation, reverse):
        frames = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
        weights = (weight.contiguous(memory_format=torch.channels_last) for weight in (weight_x, weight_h))
        return layer(frames, *weights, bias, dilation, reverse)

    return run


def ours(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    return pdb_ext.convlstm(x, weight_x, weight_h, bias, dilation=dilation, reverse=reverse)[0]


def naive_step(x: Tensor, weight: Tensor, bias: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step as people write it in a cell, with one weight for cat(x, h): (4C, Cin + C, k, k)."""
    return _cell(conv2d(torch.cat([x, h], dim=1), weight, bias, padding=weight.shape[-1] // 2), c)


def eager_peers() -> dict:
    return {
        "naive eager": naive,
        "naive channels_last": in_channels_last(naive),
        "hoisted": hoisted,
        "hoisted channels_last": in_channels_last(hoisted),
    }


def compiled_peers() -> dict:
    """torch.compile over the whole unrolled layer. Compiled anew for every shape, outside the timing."""
    return {
        "compiled naive": torch.compile(naive, dynamic=False),
        "compiled hoisted channels_last": torch.compile(in_channels_last(hoisted), dynamic=False),
    }
