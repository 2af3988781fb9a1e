"""The video saliency network of the paper's §3.3: backbone, PDC, reduction, temporal module, head, upsampling."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdb_saliency.model.backbones import BACKBONES, Backbone

from .config import PAPER, ModelConfig
from .layers import (
    ConvBatchNorm,
    PyramidDilatedConvolution,
    SkipDecoder,
    freeze_batch_norm,
    initialise,
    initialise_released,
)
from .residual_motion import ResidualMotion
from .temporal import TEMPORAL_MODULES, build_temporal, step


class SaliencyModel(nn.Module):
    """Saliency logits of every frame of a clip.

    forward(clip): clip (N, T, 3, H, W), floating point, preprocessed by `input_spec`; returns logits (N, T, 1, H, W).
    The saliency map is their sigmoid. Each clip starts from an empty state. H and W are free, except that the released
    variant takes only the size of `input_spec`. Raises ValueError for another shape or dtype.

    `spatial` (backbone, PDC, 1x1 reduction) maps frames (N, 3, H, W) to features (N, reduced_channels, h, w). A model
    with temporal="none" predicts from these alone; its `spatial` weights fit every other temporal module, which is
    the paper's two-step training. `encode` is everything that depends on `spatial`, `decode` is the rest.

    Options override single fields of `config`: SaliencyModel(variant="released"), SaliencyModel(LITE, temporal="none").

    Attributes: config; input_spec; output_spec; description (one line for people); untrained (which parts have random
    weights, in words; None when everything is trained).
    """

    def __init__(self, config: ModelConfig = PAPER, **options):
        super().__init__()
        config = dataclasses.replace(config, **options)
        self.config = config
        self.input_spec, self.output_spec = config.input_spec, config.output_spec
        self.untrained: str | None = "every weight is random: nothing in this model has been trained"
        released = config.variant == "released"
        backbone = BACKBONES[config.backbone].build(config.width)
        pdc = PyramidDilatedConvolution(backbone.out_channels, config.pdc_channels, config.pdc_dilations, config.pdc)
        reduce = ConvBatchNorm(pdc.out_channels, config.reduced_channels)
        self.spatial = nn.Sequential(OrderedDict(backbone=backbone, pdc=pdc, reduce=reduce))
        initialise(self.spatial)
        self.motion = ResidualMotion() if config.motion == "residual" and config.temporal != "none" else None
        self.temporal, channels = build_temporal(
            config.temporal,
            config.reduced_channels + (ResidualMotion.CHANNELS if self.motion else 0),
            config.hidden_channels,
            dilations=config.temporal_dilations,
            merge="sum" if released else "tanh",
            peephole=(3, 1, *map(backbone.feature_size, config.input_size)) if released else None,
        )
        self._build_head(channels, backbone)
        if released:
            initialise_released(self.temporal)
            freeze_batch_norm(self)

    def _build_head(self, channels: int, backbone: Backbone) -> None:
        """channels: of the temporal module's output."""
        config, released = self.config, self.config.variant == "released"
        if config.decoder == "skip":
            self.residual = None if config.temporal == "none" else nn.Conv2d(channels, config.reduced_channels, 1)
            self.head = SkipDecoder(config.reduced_channels, backbone.skip_channels)
            initialise(self.head)
            if self.residual is not None:
                nn.init.zeros_(self.residual.weight)
                nn.init.zeros_(self.residual.bias)
        else:
            self.head = nn.Conv2d(channels, 2 if released else 1, kernel_size=1)
            if not released:
                # A saliency of 0.12 everywhere, about the share of pixels that objects cover. If training starts from
                # 0.5, the first steps only lower it, by any means; AdamW then drives the tanh of Eq. 5 into
                # saturation, from which it does not recover.
                nn.init.constant_(self.head.bias, -2.0)

    def forward(self, clip: Tensor) -> Tensor:
        self._check_clip(clip)
        return self.decode(self.encode(clip.flatten(0, 1)), clip.shape[:2], clip.shape[-2:])

    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The features of frames (M, 3, H, W): (M, reduced_channels, h, w); with a decoder also its skip connection.

        No other part of the model sees the frames, so these can be stored while `spatial` is frozen.
        """
        if self.config.decoder == "none":
            return (self.spatial(frames),)
        features, skip = self.spatial.backbone.with_skip(frames)
        return self.spatial.reduce(self.spatial.pdc(features)), skip

    def with_motion(self, encoded: tuple[Tensor, ...], batch: tuple[int, int]) -> tuple[Tensor, ...]:
        """The result of `encode` for the N * T frames of clips, with their `ResidualMotion` if the model uses it.

        batch: (N, T).
        """
        if self.motion is None or len(encoded) == 3:
            return encoded
        features, skip = encoded
        return features, skip, self.motion(skip.detach(), batch)

    def decode(self, encoded: tuple[Tensor, ...], batch: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Logits (N, T, 1, *size) from the result of `encode` or `with_motion` for the N * T frames of clips.

        batch: (N, T).
        """
        logits = self._predict(encoded, self._temporal(encoded, batch))
        upsample = upsample_saliency if self._upsamples_saliency else upsample_logits
        return upsample(logits, size).unflatten(0, batch)

    def saliency(self, encoded: tuple[Tensor, ...], batch: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Saliency (N, T, *size) in [0, 1], at least float32: the sigmoid of what `decode` returns, computed directly.

        Inference needs only this and `encode`.
        """
        logits = self._predict(encoded, self._temporal(encoded, batch))
        return self._saliency(logits, size).unflatten(0, batch)

    def step(self, encoded: tuple[Tensor, ...], state: Any, size: tuple[int, int]) -> tuple[Tensor, Any]:
        """Saliency (T, *size) of the next T >= 1 frames of one video, each from itself and earlier frames alone.

        encoded: the result of `encode` for the T frames.
        state: what the call for the previous frames returned, None for the first.
        Returns the saliency, and the state for the next call. T frames at once give the same as one by one.

        The forward layers keep their state from call to call; `temporal.step` says what the backward layers do. A
        bidirectional model was trained with clips of a few frames and a backward layer that sees the future: its causal
        map of a frame is the one it would give for the last frame of a clip that begins with the video (except that the
        earlier frames of such a clip know the motion to their next frame, and here they do not).
        """
        state, previous = state or (None, None)
        seen = encoded[0]
        if self.motion is not None:
            seen = torch.cat([seen, self.motion.causal(encoded[1], previous)], dim=1)
            previous = encoded[1][-1:]
        output, state = step(self.temporal, seen.unsqueeze(0), state)
        return self._saliency(self._predict(encoded, output[0]), size), (state, previous)

    def temporal_input(self, encoded: tuple[Tensor, ...], batch: tuple[int, int]) -> Tensor:
        """The temporal module's input for encoded clips, (N, T, C, h, w): features, and motion if the model uses it."""
        encoded = self.with_motion(encoded, batch)
        seen = encoded[0] if self.motion is None else torch.cat([encoded[0], encoded[2]], dim=1)
        return seen.unflatten(0, batch)

    def _temporal(self, encoded: tuple[Tensor, ...], batch: tuple[int, int]) -> Tensor:
        return self.temporal(self.temporal_input(encoded, batch))[0].flatten(0, 1)

    def _predict(self, encoded: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Logits (M, 1, h, w) from the encoded frames and the temporal module's output for them, (M, C, h, w)."""
        features, *skips = encoded[:2]
        if not skips:
            # The released head has two channels, of which the last one is saliency; Caffe did not use the other either.
            return self.head(output)[:, -1:]
        if self.residual is not None:
            output = features + self.residual(output)
        return self.head(output, *skips)

    def _saliency(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self._upsamples_saliency:
            return upsample_logits(torch.sigmoid(logits), size)[:, 0]
        return torch.sigmoid(upsample_logits(logits, size))[:, 0]

    @property
    def _upsamples_saliency(self) -> bool:
        """Whether the saliency is upsampled (§3.3) rather than the logits."""
        return self.config.variant == "paper" and self.config.decoder == "none"

    def train(self, mode: bool = True) -> SaliencyModel:
        """As nn.Module.train; the batch normalisation of the released variant stays frozen."""
        super().train(mode)
        if self.config.variant == "released":
            freeze_batch_norm(self)
        return self

    @property
    def description(self) -> str:
        config = self.config
        rates = "/".join(map(str, config.pdc_dilations))
        parts = [BACKBONES[config.backbone].title, f"{config.pdc.upper()} {rates}", TEMPORAL_MODULES[config.temporal]]
        parts += ["motion"] if self.motion is not None else []
        parts += ["skip decoder"] if config.decoder == "skip" else []
        size = "x".join(map(str, config.input_size)) + (" pixels in the frames' shape" if config.keep_aspect else "")
        parts += [f"{config.variant} variant", size, *(["guided filter"] if config.refine == "guided" else [])]
        return ", ".join(parts)

    def _check_clip(self, clip: Tensor) -> None:
        if clip.dim() != 5 or clip.shape[2] != 3 or not clip.is_floating_point():
            raise ValueError(f"clip must be floating point (N, T, 3, H, W), got {clip.dtype} {tuple(clip.shape)}")
        if self.config.variant == "released" and tuple(clip.shape[-2:]) != self.config.input_size:
            height, width = self.config.input_size
            raise ValueError(
                f"clip must be {height}x{width}, the one size that this model's peepholes fit, "
                f"got {clip.shape[-2]}x{clip.shape[-1]}"
            )


def upsample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners aligned: (N, C, h, w) -> (N, C, *size).

    Corners, because the strided layers of the backbones sample pixels 0, 8, 16, ...: for an input of 8k + 1 pixels,
    such as the paper's 473 and 353, the first and the last feature lie on the first and the last pixel. Caffe's Interp
    layer, which the released model uses, does the same.
    """
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def upsample_saliency(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits of the upsampled saliency map: sigmoid first, then bilinear upsampling, the order that §3.3 gives.

    (N, C, h, w) -> (N, C, *size), such that sigmoid(result) = upsample(sigmoid(logits)). The result is
    log(p) - log(1 - p); interpolation weights sum to one, so 1 - p is the upsampled sigmoid(-logits), which does not
    cancel. Computed in at least float32, where it saturates at +-80; the gradients do not saturate, so that a network
    that is certain of a wrong answer can still learn.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    limit = 80.0 if wide.dtype == torch.float32 else 640.0  # exp(-limit) is a normal number.
    wide = wide + (wide.clamp(-limit, limit) - wide).detach()
    salient = upsample_logits(torch.sigmoid(wide), size)
    background = upsample_logits(torch.sigmoid(-wide), size)
    return (salient.log() - background.log()).to(logits.dtype)
