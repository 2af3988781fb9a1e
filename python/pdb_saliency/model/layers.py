"""The layers that the networks are built from: convolution blocks, the PDC module, the skip decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdb_ext import ConvLSTM

# oneDNN computes depthwise layers with more columns of padding than this by plain loops: 5x5 at dilation 4 takes 4 to 8
# times as long as with the same zeros written around the input first.
_FAST_PADDING = 6


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


class SameConv2d(nn.Conv2d):
    """Conv2d padded as TensorFlow's "SAME": output size ceil(size / stride), odd padding goes last."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _), (dilation, _) = self.kernel_size, self.stride, self.dilation
        if stride == 1:
            trains = torch.is_grad_enabled() and x.requires_grad and self.bias is None
            if trains and self.groups == x.shape[1] and x.device.type == "cpu":
                return _DepthwiseConv2d.apply(x, self.weight, dilation)
            return _same_conv2d(x, self.weight, dilation, self.groups, self.bias)
        x, padding = self.pad(x, kernel, stride, dilation, self.groups)
        return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, self.groups)

    @staticmethod
    def pad(x: Tensor, kernel: int, stride: int, dilation: int, groups: int) -> tuple[Tensor, tuple[int, int]]:
        """Pads x where `conv2d` cannot do it or does it slowly; returns x and `conv2d`'s own (rows, columns).

        `conv2d` cannot pad one side more than the other. A stride above 1 occurs with dilation 1 only.
        """
        if stride == 1:
            padding = dilation * (kernel // 2)
            if x.device.type == "cpu" and groups > 1 and padding > _FAST_PADDING:
                return F.pad(x, (padding, padding, 0, 0)), (padding, 0)
            return x, (padding, padding)
        totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]
        if all(total % 2 == 0 for total in totals):
            return x, tuple(total // 2 for total in totals)
        (top, left), (bottom, right) = ((total // 2 for total in totals), (total - total // 2 for total in totals))
        return F.pad(x, (left, right, top, bottom)), (0, 0)


def _same_conv2d(x: Tensor, weight: Tensor, dilation: int, groups: int, bias: Tensor | None = None) -> Tensor:
    x, padding = SameConv2d.pad(x, weight.shape[-1], 1, dilation, groups)
    return F.conv2d(x, weight, bias, 1, padding, dilation, groups)


class _DepthwiseConv2d(torch.autograd.Function):
    """`_same_conv2d` with one channel per group; its data gradient is a forward convolution with the mirrored kernel.

    PyTorch's own gradient is up to 20 times slower on CPUs for dilated depthwise layers, a fifth of a training step.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _same_conv2d(x, weight, dilation, x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        x, grad = x.to(weight.dtype), grad.to(weight.dtype)  # Under autocast they have a half-precision dtype.
        dilation, channels = ctx.dilation, x.shape[1]
        grad_x = _same_conv2d(grad, weight.flip(2, 3), dilation, channels) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            padding = dilation * (weight.shape[-1] // 2)
            grad_weight = torch.nn.grad.conv2d_weight(x, weight.shape, grad, 1, padding, dilation, channels)
        return grad_x, grad_weight, None


@dataclass(frozen=True)
class ResidualParts:
    """The parts of a block that computes activation(last(inner(x)) + shortcut(x)).

    inner: everything before the last convolution. last: the last convolution and its batch normalisation, a
    `Sequential` with the children `conv` and `bn`. shortcut: the same, or None, which adds x itself. activation: ReLU
    or None.
    """

    inner: nn.Module
    last: nn.Sequential
    shortcut: nn.Sequential | None = None
    activation: nn.ReLU | None = None


class ResidualBlock(nn.Module):
    """Base class of blocks with a shortcut. On CPUs, inference adds it in the last convolution (`optimise.fuse`)."""

    def parts(self) -> ResidualParts | None:
        """None if this block has no shortcut."""
        raise NotImplementedError


class PyramidDilatedConvolution(nn.Module):
    """Pyramid dilated convolution (§3.1): parallel 3x3 convolutions T_k of the features F with dilations r_k (Eq. 1).

    mode "pdc": X = [F, T_1, ..., T_K], Eq. 3; (N, M, h, w) -> (N, M + K * C, h, w).
    mode "aspp": X = T_1 + ... + T_K, the baseline of Table 4; (N, M, h, w) -> (N, C, h, w).

    A single dilation in mode "pdc" gives the first four columns of Table 4.

    Each branch ends in batch normalisation and ReLU, as in the released model. Eq. 1 prints the convolution alone;
    without a nonlinearity the pyramid and the 1x1 reduction behind it would be one linear layer.
    """

    def __init__(self, in_channels: int, channels: int, dilations: tuple[int, ...], mode: str = "pdc"):
        super().__init__()
        self.mode = mode
        self.branches = nn.ModuleList(
            ConvBatchNorm(in_channels, channels, kernel_size=3, dilation=dilation) for dilation in dilations
        )
        self.out_channels = in_channels + len(dilations) * channels if mode == "pdc" else channels

    def forward(self, features: Tensor) -> Tensor:
        scales = [branch(features) for branch in self.branches]
        if self.mode == "aspp":
            return torch.stack(scales).sum(dim=0)
        return torch.cat([features, *scales], dim=1)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


class SkipDecoder(nn.Module):
    """Saliency logits with sharp borders, from features and a skip connection, like the decoder of DeepLabv3+ (2018).

    The paper has no decoder. This one predicts at stride 4, with the help of early features.

    forward(features (N, C, h, w), skip (N, Cskip, H, W)): the features are upsampled to the skip's size (bilinear,
    corners aligned), concatenated with a projection of the skip to 16 channels, and go through two 3x3 convolutions;
    returns logits (N, 1, H, W).
    """

    SKIP_CHANNELS = 16

    def __init__(self, channels: int, skip_channels: int):
        super().__init__()
        self.skip = ConvBatchNorm(skip_channels, self.SKIP_CHANNELS)
        self.join = ConvBatchNorm(channels + self.SKIP_CHANNELS, channels, kernel_size=3)
        self.refine = ConvBatchNorm(channels, channels, kernel_size=3)
        self.predict = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        features = F.interpolate(features, size=skip.shape[-2:], mode="bilinear", align_corners=True)
        return self.predict(self.refine(self.join(torch.cat([features, self.skip(skip)], dim=1))))


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
    """The authors' initial values for ConvLSTMs: weights within +-0.0297, biases 0, peepholes 1 (Caffe's Scale)."""
    for layer in temporal.modules():
        if isinstance(layer, ConvLSTM):
            nn.init.uniform_(layer.weight_x, -0.0297, 0.0297)
            nn.init.uniform_(layer.weight_h, -0.0297, 0.0297)
            nn.init.zeros_(layer.bias)
            if layer.peephole is not None:
                nn.init.ones_(layer.peephole)
