"""A decoder for sharp borders, which the paper does not have: it predicts at stride 4, with the help of early features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import ConvBatchNorm


class SkipDecoder(nn.Module):
    """Saliency logits from features and a skip connection (as the decoder of DeepLabv3+, Chen et al. 2018).

    forward(features (N, C, h, w), skip (N, Cskip, H, W)): the features are upsampled to the skip's size (bilinear, corners
    aligned), joined with 16 channels of it, and go through two 3x3 convolutions; returns logits (N, 1, H, W).
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
