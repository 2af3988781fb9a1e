"""The paper's base network: ResNet-50 with a stem of three convolutions, dilated to stride 8."""

from __future__ import annotations

from torch import Tensor, nn

from pdb_saliency.model.layers import ConvBatchNorm


class Bottleneck(nn.Module):
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
