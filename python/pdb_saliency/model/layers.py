"""The building block of the networks here: convolution, batch normalisation, activation."""

from __future__ import annotations

from torch import nn

from pdb_ext import ConvLSTM


class ConvBatchNorm(nn.Sequential):
    """Convolution without bias, BatchNorm2d (eps 1e-5), and ReLU unless relu=False. (N, Cin, H, W) -> (N, C, H', W').

    Padding is "same" for stride 1: dilation * (kernel_size // 2).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
    ):
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        if relu:
            self.relu = nn.ReLU(inplace=True)


def freeze_batch_norm(module: nn.Module) -> None:
    """Make every BatchNorm2d below `module` use its stored statistics and keep all four of its tensors as they are.

    `module.train()` undoes the first half, so call this after it.
    """
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
            child.requires_grad_(False)


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for every Conv2d below `module` (He et al. 2015, gain of ReLU), zero biases."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and not child.weight.is_meta:
            # In a depthwise layer, fan-out counts all channels though each output sees one.
            mode = "fan_out" if child.groups == 1 else "fan_in"
            nn.init.kaiming_normal_(child.weight, mode=mode, nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def initialise_released(temporal: nn.Module) -> None:
    """Initial values of the authors' ConvLSTM layers: weights within +-0.0297, biases 0, peepholes 1 (Caffe's Scale)."""
    for layer in temporal.modules():
        if isinstance(layer, ConvLSTM):
            nn.init.uniform_(layer.weight_x, -0.0297, 0.0297)
            nn.init.uniform_(layer.weight_h, -0.0297, 0.0297)
            nn.init.zeros_(layer.bias)
            if layer.peephole is not None:
                nn.init.ones_(layer.peephole)
