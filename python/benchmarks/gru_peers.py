"""The ways people compute a ConvGRU layer in PyTorch today, with the signature of peers.py's layers."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import pdb_ext
from peers import in_channels_last, in_order


def naive_gru(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    """As in most repositories: a convolution of cat(x_t, h) for r and z, one of cat(x_t, r . h) for n."""
    T, N, _, H, W = x.shape
    C, padding = weight_h.shape[1], dilation * (weight_x.shape[-1] // 2)
    weight_r_z, weight_n = torch.cat([weight_x, weight_h], dim=1).split([2 * C, C])
    bias_r_z, bias_n = bias.split([2 * C, C])
    h = x.new_zeros(N, C, H, W)
    outputs = [h] * T
    for t in in_order(T, reverse):
        gates = conv2d(torch.cat([x[t], h], dim=1), weight_r_z, bias_r_z, padding=padding, dilation=dilation)
        r, z = torch.sigmoid(gates).chunk(2, dim=1)
        n = torch.tanh(conv2d(torch.cat([x[t], r * h], dim=1), weight_n, bias_n, padding=padding, dilation=dilation))
        h = (1 - z) * n + z * h
        outputs[t] = h
    return torch.stack(outputs)


def hoisted_gru(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    """The input convolution of all steps at once, before the loop."""
    T, N, _, H, W = x.shape
    C, padding = weight_h.shape[1], dilation * (weight_x.shape[-1] // 2)
    of_x = conv2d(x.flatten(0, 1), weight_x, bias, padding=padding, dilation=dilation).unflatten(0, (T, N))
    weight_r_z, weight_n = weight_h.split([2 * C, C])
    h = x.new_zeros(N, C, H, W)
    outputs = [h] * T
    for t in in_order(T, reverse):
        x_r_z, x_n = of_x[t].split([2 * C, C], dim=1)
        r, z = torch.sigmoid(x_r_z + conv2d(h, weight_r_z, padding=padding, dilation=dilation)).chunk(2, dim=1)
        n = torch.tanh(x_n + conv2d(r * h, weight_n, padding=padding, dilation=dilation))
        h = n + z * (h - n)
        outputs[t] = h
    return torch.stack(outputs)


def our_gru(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor, dilation: int, reverse: bool) -> Tensor:
    return pdb_ext.convgru(x, weight_x, weight_h, bias, dilation=dilation, reverse=reverse)[0]


def gru_implementations(compiled: bool) -> dict:
    """torch.compile is over the whole unrolled layer."""
    eager = {
        "naive eager": naive_gru,
        "naive channels_last": in_channels_last(naive_gru),
        "hoisted": hoisted_gru,
        "hoisted channels_last": in_channels_last(hoisted_gru),
    }
    peers = {"compiled hoisted channels_last": torch.compile(in_channels_last(hoisted_gru), dynamic=False)}
    return (peers if compiled else {}) | eager | {"pdb_ext": our_gru}
