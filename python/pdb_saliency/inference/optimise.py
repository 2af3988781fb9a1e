"""A network made faster for inference, with the same results up to rounding.

Batch normalisation, which at inference is a fixed scale and shift of each channel, is folded into the convolution
before it. On CPUs a convolution, the shortcut added to it and the activation then run in one pass of oneDNN, by the
operators that `torch.compile` emits, called without its compiler.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdb_saliency.model.layers import ResidualBlock, ResidualParts, SameConv2d


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Replace `conv` and `bn` at the start of every `Sequential` below `module` by one convolution with a bias.

    In place; returns `module`, whose state_dict then has other names. The stored statistics are folded, so the result
    equals the module in eval mode up to rounding; the products are formed in float64.
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
    folded = conv.weight.double() * scale[:, None, None, None]  # Rows are output channels, also in groups.
    conv.weight = nn.Parameter(folded.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def fuse(module: nn.Module) -> nn.Module:
    """Fuse each convolution below `module` with the ReLU or ReLU6 after it, and residual blocks with their shortcut.

    Batch normalisation must have been folded before. In place; returns `module`. For float32 on the CPU, without
    gradients.
    """
    for name, child in module.named_children():
        if isinstance(child, ResidualBlock) and (parts := child.parts()):
            setattr(module, name, _FusedResidual(parts))
        elif isinstance(child, nn.Sequential) and list(child._modules) in (["conv"], ["conv", "relu"]):
            setattr(module, name, FusedConv2d(child.conv, child._modules.get("relu")))
        else:
            fuse(child)
    return module


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return device.type == "cpu" and dtype == torch.float32 and has_operator


class FusedConv2d(nn.Module):
    """activation(conv(x) + shortcut), channels last. activation: ReLU, None or, without a shortcut, ReLU6."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None):
        super().__init__()
        self.weight = nn.Parameter(
            conv.weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
        )
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self._padding = None if isinstance(conv, SameConv2d) else conv.padding
        names = {nn.ReLU6: ("hardtanh", [0.0, 6.0]), nn.ReLU: ("relu", []), type(None): ("none", [])}
        self._activation = names[type(activation)]

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        padding = self._padding
        if padding is None:
            x, padding = SameConv2d.pad(x, self.weight.shape[-1], self.stride[0], self.dilation[0], self.groups)
        geometry = (padding, self.stride, self.dilation, self.groups)
        name, scalars = self._activation
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, name, scalars, "")
        operator = torch.ops.mkldnn._convolution_pointwise.binary
        activation = None if name == "none" else name  # Only the operator without a shortcut knows "none".
        return operator(x, shortcut, self.weight, self.bias, *geometry, "add", 1.0, activation, scalars, "")


class _FusedResidual(nn.Module):
    """A residual block whose last convolution adds the shortcut and applies the activation."""

    def __init__(self, parts: ResidualParts):
        super().__init__()
        self.inner = fuse(parts.inner)
        self.last = FusedConv2d(parts.last.conv, parts.activation)
        self.shortcut = None if parts.shortcut is None else FusedConv2d(parts.shortcut.conv, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(x), x if self.shortcut is None else self.shortcut(x))
