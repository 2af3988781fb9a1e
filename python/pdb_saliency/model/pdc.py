"""Pyramid dilated convolution (§3.1 of the paper) and its ablations (Table 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import ConvBatchNorm


class PyramidDilatedConvolution(nn.Module):
    """Parallel 3x3 convolutions T_k of the features F with dilations r_k (Eq. 1), combined at full resolution.

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
