"""What a backbone must offer, and what the rest of the program must know about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from pdb_saliency.model.input import InputSpec


class Backbone(Protocol):
    """A module that turns frames into features of about an eighth of their size.

    forward(frames (N, 3, H, W)) returns features (N, out_channels, feature_size(H), feature_size(W)). For H = 8k + 1
    the first and the last feature lie on the first and the last pixel.

    To be fast at inference, convolutions should be `Sequential`s with the children `conv`, `bn` and perhaps `relu`
    (ReLU or ReLU6), like `ConvBatchNorm`: the batch normalisation is folded into the convolution, and on CPUs the
    activation becomes part of it. Blocks with a shortcut should derive from `ResidualBlock`, so that it is added in the
    same pass. Inference runs other layers as they are.
    """

    out_channels: int
    skip_channels: int

    def __call__(self, frames: Tensor) -> Tensor: ...

    def with_skip(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and early ones (N, skip_channels, about H / 4, about W / 4) for the decoder and for motion."""

    @staticmethod
    def feature_size(size: int) -> int:
        """Rows (columns) of the features for `size` input rows (columns)."""


@dataclass(frozen=True)
class BackboneKind:
    """An entry of `BACKBONES`.

    title: the name to print. build(ModelConfig.width): the backbone with random weights, a `Backbone`.
    bgr, mean, std: the input that it expects, as in `InputSpec`.
    load_installed(backbone): loads the ImageNet weights of an installed package. None: there is no such package.
    load_file(backbone, path, spec): loads ImageNet weights from a file that the user names; `spec` says how frames are
        prepared. None: no such files are known. Both raise WeightsError and then leave the backbone unchanged.
    """

    title: str
    build: Callable[[int], nn.Module]
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    load_installed: Callable[[nn.Module], None] | None = None
    load_file: Callable[[nn.Module, Path, InputSpec], None] | None = None

    def input_spec(self, height: int, width: int, keep_aspect: bool) -> InputSpec:
        return InputSpec(height, width, bgr=self.bgr, mean=self.mean, std=self.std, keep_aspect=keep_aspect)
