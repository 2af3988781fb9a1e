"""The paper's base network: ResNet-50 with a stem of three convolutions, dilated to stride 8."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from pdb_saliency.errors import WeightsError, one_line
from pdb_saliency.model.input import InputSpec
from pdb_saliency.model.layers import ConvBatchNorm, ResidualBlock, ResidualParts

from .backbone import BackboneKind


class Bottleneck(ResidualBlock):
    """1x1 reduce, 3x3, 1x1 increase, plus the input (projected where the shape changes), ReLU.

    The stride sits on the 1x1 reduce and on the projection, as in Caffe's ResNet; torchvision's has it on the 3x3.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        channels = 4 * width
        self.reduce = ConvBatchNorm(in_channels, width, stride=stride)
        self.conv3x3 = ConvBatchNorm(width, width, kernel_size=3, dilation=dilation)
        self.increase = ConvBatchNorm(width, channels, relu=False)
        self.proj = None
        if in_channels != channels or stride != 1:
            self.proj = ConvBatchNorm(in_channels, channels, stride=stride, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.proj is None else self.proj(x)
        return self.relu(self.increase(self.conv3x3(self.reduce(x))) + shortcut)

    def parts(self) -> ResidualParts:
        return ResidualParts(nn.Sequential(self.reduce, self.conv3x3), self.increase, self.proj, self.relu)


class DilatedResNet50(nn.Module):
    """(N, 3, H, W) -> (N, 32 * width, h, w) with h about H / 8; k + 1 for H = 8k + 1, as 473 -> 60 and 353 -> 45.

    width: channels of the first convolution; 64 gives the paper's 2048 feature channels.
    Each block's 3x3 convolutions have dilation 2 in conv4 and 4 in conv5, the first block of a stage included.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.conv1_1 = ConvBatchNorm(3, width, kernel_size=3, stride=2)
        self.conv1_2 = ConvBatchNorm(width, width, kernel_size=3)
        self.conv1_3 = ConvBatchNorm(width, 2 * width, kernel_size=3)
        # Caffe rounds pooled sizes up; the two modes differ for even sizes only.
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1, ceil_mode=True)
        self.conv2 = _stage(2 * width, width, blocks=3)
        self.conv3 = _stage(4 * width, 2 * width, blocks=4, stride=2)
        self.conv4 = _stage(8 * width, 4 * width, blocks=6, dilation=2)
        self.conv5 = _stage(16 * width, 8 * width, blocks=3, dilation=4)
        self.out_channels = 32 * width
        self.skip_channels = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.with_skip(x)[0]

    def with_skip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and those of conv2, (N, 4 * width, H', W') with H' about H / 4."""
        skip = self.conv2(self.pool(self.conv1_3(self.conv1_2(self.conv1_1(x)))))
        return self.conv5(self.conv4(self.conv3(skip))), skip

    @staticmethod
    def feature_size(size: int) -> int:
        """Rows (columns) of the features for `size` input rows (columns)."""
        halved = (size + 1) // 2
        pooled = halved // 2 + 1
        return (pooled + 1) // 2


def _stage(in_channels: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, dilation=dilation) for _ in range(blocks - 1)))


# Names and input (RGB from 0 to 1) of torchvision's models and of those derived from them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS = {"conv1": "reduce.conv", "bn1": "reduce.bn", "conv2": "conv3x3.conv", "bn2": "conv3x3.bn"}
_LAYERS |= {"conv3": "increase.conv", "bn3": "increase.bn", "downsample.0": "proj.conv", "downsample.1": "proj.bn"}
_STEM = {"conv1": "conv1_1.conv", "bn1": "conv1_1.bn", "conv2": "conv1_2.conv", "bn2": "conv1_2.bn"}
_STEM |= {"conv3": "conv1_3.conv", "bn3": "conv1_3.bn"}


def load_resnet_weights(backbone: DilatedResNet50, path: Path, spec: InputSpec) -> None:
    """Load ImageNet weights from a .pth file with torchvision's names and a stem of three 3x3 convolutions.

    That is the stem of the paper's base network; semantic-segmentation-pytorch publishes such a file
    (resnet50-imagenet.pth). torchvision's own ResNet-50 begins with one 7x7 convolution, which does not fit. The
    classifier ("fc.") is left out. In these networks the stride of a stage is on the 3x3 convolution, in ours on the
    1x1 before it.

    The weights expect RGB from 0 to 1, normalised by ImageNet's mean and standard deviation; the first layer is
    rewritten for input as `spec` prepares it.
    Raises WeightsError; the backbone is then unchanged.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        state = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError("it holds more than tensors")
    except Exception as error:  # Unpickling a damaged file can raise nearly anything.
        raise WeightsError(f"{path}: not a readable weights file ({one_line(error)})") from error
    first = state.get("conv1.weight")
    if first is not None and first.shape[-1] == 7:
        raise WeightsError(
            f"{path}: begins with a 7x7 convolution (torchvision's ResNet); this network has three of 3x3"
        )
    renamed = {_our_name(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    found = {name: tensor.shape for name, tensor in renamed.items()}
    wrong = sorted(
        name for name in expected | found if expected.get(name) != found.get(name) and "num_batches" not in name
    )
    if wrong:
        had, wanted = (tuple(shapes[wrong[0]]) if wrong[0] in shapes else "nothing" for shapes in (found, expected))
        raise WeightsError(f"{path}: not the weights of this ResNet-50: {wrong[0]} is {had}, expected {wanted}")
    _rewrite_first_layer(renamed, spec)
    backbone.load_state_dict(renamed, strict=False)  # Old files have no num_batches_tracked.


def _our_name(name: str) -> str:
    block = re.fullmatch(r"layer(\d)\.(\d+)\.(downsample\.\d|\w+)\.(\w+)", name)
    if block:
        stage, number, layer, tensor = block.groups()
        return f"conv{int(stage) + 1}.{number}.{_LAYERS.get(layer, layer)}.{tensor}"
    layer, _, tensor = name.partition(".")
    return f"{_STEM.get(layer, layer)}.{tensor}"


def _rewrite_first_layer(state: dict[str, Tensor], spec: InputSpec) -> None:
    """Make the layer do with (x - spec.mean) / spec.std what it did with (x / 255 - mean) / std.

    The result is the same except at the border, where the zeros of the padding stand for another colour.
    """
    order = [2, 1, 0] if spec.bgr else [0, 1, 2]
    mean, std = (torch.tensor(values).double()[order] * 255 for values in (_MEAN, _STD))
    ours_mean, ours_std = (torch.tensor(values).double() for values in (spec.mean, spec.std))
    weight = state["conv1_1.conv.weight"].double()[:, order]
    offset = (weight * ((ours_mean - mean) / std).view(1, 3, 1, 1)).sum((1, 2, 3))
    state["conv1_1.conv.weight"] = (weight * (ours_std / std).view(1, 3, 1, 1)).float()
    state["conv1_1.bn.running_mean"] = (state["conv1_1.bn.running_mean"].double() - offset).float()


RESNET50 = BackboneKind(
    title="ResNet-50",
    build=DilatedResNet50,
    bgr=True,
    mean=(104.00698793, 116.66876762, 122.67891434),  # the mean colour that the authors' Caffe model subtracts
    std=(1.0, 1.0, 1.0),
    load_file=load_resnet_weights,
)
