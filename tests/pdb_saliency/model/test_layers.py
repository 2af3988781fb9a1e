"""Convolutions padded as in TensorFlow, and the PDC module."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pdb_saliency.model.layers import PyramidDilatedConvolution, SameConv2d, _same_conv2d


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [8, 9])
def test_same_padding_is_tensorflows(kernel, size):
    """Output i of a stride-2 layer is centred on pixel 2i for odd sizes and on pixel 2i + 1 for even ones."""
    layer = SameConv2d(1, 1, kernel, stride=2, bias=False)
    centre = torch.zeros(1, 1, kernel, kernel)
    centre[0, 0, kernel // 2, kernel // 2] = 1
    layer.weight.data = centre
    image = torch.arange(float(size * size)).view(1, 1, size, size)
    first = 1 - size % 2
    torch.testing.assert_close(layer(image), image[:, :, first::2, first::2])


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 4)])
@pytest.mark.parametrize("size", [(9, 11), (1, 3)])
def test_depthwise_gradients(kernel, dilation, size):
    """The backward pass of our depthwise layers against PyTorch's."""
    layer = SameConv2d(4, 4, kernel, dilation=dilation, groups=4, bias=False).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 4, *size, dtype=torch.float64)
    ours = torch.autograd.grad(layer(x), (x, layer.weight), grad)
    expected = F.conv2d(x, layer.weight, None, 1, dilation * (kernel // 2), dilation, 4)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, (x, layer.weight), grad)):
        torch.testing.assert_close(mine, theirs)
    layer.weight.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(layer(x), x, grad)[0], ours[0])


def test_depthwise_gradients_under_autocast():
    """bfloat16 has 8 bits of precision: gradients equal those of float32 up to a few roundings (2**-8) on average."""
    layer = SameConv2d(4, 4, 3, groups=4, bias=False)
    x = torch.randn(2, 4, 9, 11, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.weight))
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x * 1)
    assert output.dtype == torch.bfloat16
    for half, exact in zip(torch.autograd.grad(output.float().square().sum(), (x, layer.weight)), expected):
        assert (half - exact).norm() < 4 * 2**-8 * exact.norm()


@pytest.mark.parametrize("kernel,dilation", [(5, 4), (5, 3), (3, 7), (3, 2)])
def test_padding_ahead_of_a_wide_depthwise_layer_changes_nothing(kernel, dilation):
    x, weight = torch.randn(2, 6, 19, 23, dtype=torch.float64), torch.randn(6, 1, kernel, kernel, dtype=torch.float64)
    expected = F.conv2d(x, weight, padding=dilation * (kernel // 2), dilation=dilation, groups=6)
    torch.testing.assert_close(_same_conv2d(x, weight, dilation, 6), expected)


def test_pdc_concatenates_and_aspp_sums():
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    pdc = PyramidDilatedConvolution(3, 2, (1, 4)).double().eval()
    aspp = PyramidDilatedConvolution(3, 2, (1, 4), mode="aspp").double().eval()
    aspp.load_state_dict(pdc.state_dict())
    scales = []
    for dilation, branch in zip((1, 4), pdc.branches):
        convolved = F.conv2d(x, branch.conv.weight, padding=dilation, dilation=dilation)
        scales.append(F.relu(convolved / (1 + 1e-5) ** 0.5))
    torch.testing.assert_close(pdc(x), torch.cat([x, *scales], dim=1))
    torch.testing.assert_close(aspp(x), scales[0] + scales[1])
