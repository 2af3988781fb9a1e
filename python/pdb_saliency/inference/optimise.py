"""The network's convolutions on CPUs: with their activation, and the addition of a shortcut, in oneDNN's one pass.

PyTorch has these as the operators that `torch.compile` emits for CPUs; here they are called without its compiler.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pdb_saliency.model.backbones.efficientnet import InvertedResidual, SameConv2d
from pdb_saliency.model.backbones.resnet import Bottleneck


def fuse(module: nn.Module) -> nn.Module:
    """Replace, below `module`, each folded `Sequential` of a convolution and perhaps a ReLU or ReLU6, and the shortcuts.

    In place; returns `module`. For float32 on the CPU, without gradients.
    """
    for name, child in module.named_children():
        if isinstance(child, Bottleneck):
            setattr(module, name, _FusedBottleneck(child))
        elif isinstance(child, InvertedResidual) and child.residual:
            setattr(module, name, _FusedInvertedResidual(child))
        elif isinstance(child, nn.Sequential) and list(child._modules) in (["conv"], ["conv", "relu"]):
            setattr(module, name, FusedConv2d(child.conv, child._modules.get("relu")))
        else:
            fuse(child)
    return module


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return device.type == "cpu" and dtype == torch.float32 and has_operator


class FusedConv2d(nn.Module):
    """activation(conv(x) + shortcut), channels last, the shortcut where there is one. activation: ReLU, None, or (alone) ReLU6."""

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
        activation = None if name == "none" else name  # "none" is a name that only the operator without shortcut knows.
        return operator(x, shortcut, self.weight, self.bias, *geometry, "add", 1.0, activation, scalars, "")


class _FusedBottleneck(nn.Module):
    """`resnet.Bottleneck`, whose last convolution adds the shortcut and applies the ReLU."""

    def __init__(self, block: Bottleneck):
        super().__init__()
        self.reduce = FusedConv2d(block.reduce.conv, block.reduce.relu)
        self.conv3x3 = FusedConv2d(block.conv3x3.conv, block.conv3x3.relu)
        self.increase = FusedConv2d(block.increase.conv, block.relu)
        self.proj = None if block.proj is None else FusedConv2d(block.proj.conv, None)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        return self.increase(self.conv3x3(self.reduce(x)), shortcut)


class _FusedInvertedResidual(nn.Module):
    """`efficientnet.InvertedResidual`, whose projection adds the input."""

    def __init__(self, block: InvertedResidual):
        super().__init__()
        self.inner = fuse(nn.Sequential(block.expand, block.depthwise))
        self.project = FusedConv2d(block.project.conv, None)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.inner(x), x)
