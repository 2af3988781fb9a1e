"""Fold batch normalisation, which at inference is a fixed scale and shift of each channel, into the convolution before it."""

from __future__ import annotations

import torch
from torch import nn


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Give every `Sequential` below `module` that begins with `conv` and `bn` one convolution with a bias instead of the two.

    In place; returns `module`, whose state_dict then has other names. The batch normalisation's stored statistics are what
    is folded, so the result equals the module in eval mode up to rounding; the products are formed in float64.
    """
    for layer in module.modules():
        children = getattr(layer, "_modules", {})
        if isinstance(layer, nn.Sequential) and list(children)[:2] == ["conv", "bn"]:
            _fold(layer.conv, layer.bn)
            del layer.bn
    return module


@torch.no_grad()
def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = bn.bias.double() - bn.running_mean.double() * scale
    if conv.bias is not None:
        bias += conv.bias.double() * scale
    folded = conv.weight.double() * scale[:, None, None, None]  # Rows are output channels, in grouped layers too.
    conv.weight = nn.Parameter(folded.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
