"""The reference with convolutions as PyTorch's are with TF32 allowed, on the CPU."""

import contextlib
import unittest.mock
from collections.abc import Iterator

import torch
from torch.nn.functional import conv2d

from pdb_ext import reference


def round_to_tf32(tensor):
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32Convolution(torch.autograd.Function):
    """What PyTorch's convolution does with TF32 allowed: operands rounded to TF32, sums in float32."""

    @staticmethod
    def forward(ctx, x, weight, bias, padding, dilation):
        ctx.options = {"padding": padding, "dilation": dilation}
        x, weight = round_to_tf32(x), round_to_tf32(weight)
        ctx.save_for_backward(x, weight)
        return conv2d(x, weight, bias, **ctx.options)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rounded = round_to_tf32(grad.contiguous())
        grad_x = torch.nn.grad.conv2d_input(x.shape, weight, rounded, **ctx.options)
        grad_weight = torch.nn.grad.conv2d_weight(x, weight.shape, rounded, **ctx.options)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None


@contextlib.contextmanager
def tf32_reference() -> Iterator[None]:
    """Inside, `pdb_ext.reference` convolves float32 in TF32."""

    def convolution(x, weight, bias=None, *, padding, dilation):
        if x.dtype != torch.float32:
            return conv2d(x, weight, bias, padding=padding, dilation=dilation)
        return Tf32Convolution.apply(x, weight, bias, padding, dilation)

    with (
        unittest.mock.patch.object(reference.lstm, "conv2d", convolution),
        unittest.mock.patch.object(reference.gru, "conv2d", convolution),
    ):
        yield
