"""The floor: what a network's convolutions take when plain PyTorch runs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdb_ext import ConvLSTM
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.layers import SameConv2d
from pdb_saliency.model.saliency import SaliencyModel


@dataclass(frozen=True)
class _Convolution:
    """repeats: times per clip. geometry: stride, padding, dilation and groups of `conv2d`."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    geometry: tuple
    repeats: int


def convolutions_alone(
    model: SaliencyModel, engine: Engine, size: tuple[int, int], length: int
) -> tuple[Callable[[], None], float]:
    """A function that runs all convolutions of the model on random numbers, for a clip of `length` frames of (height,
    width), those inside the ConvLSTM layers included; and its multiplications per frame, in 1e9.

    Shapes, batch and dtype are the engine's; the memory layout is PyTorch's default on CPUs, channels last on GPUs.
    """
    layout = torch.channels_last if engine.device.type == "cuda" else torch.contiguous_format

    def random(shape: Iterable[int]) -> Tensor:
        return torch.randn(tuple(shape), device=engine.device, dtype=engine.dtype).to(memory_format=layout)

    found = _convolutions(model, engine.batch, size, length)
    prepared = [(random(c.input_shape), random(c.weight_shape), c.geometry, c.repeats) for c in found]

    @torch.inference_mode()
    def floor() -> None:
        for x, weight, geometry, repeats in prepared:
            for _ in range(repeats):
                output = F.conv2d(x, weight, None, *geometry)
        del output

    with torch.inference_mode():
        counts = (F.conv2d(x, w, None, *geometry).numel() * w[0].numel() * n for x, w, geometry, n in prepared)
        return floor, sum(counts) / length / 1e9


def _convolutions(model: SaliencyModel, batch: int, size: tuple[int, int], length: int) -> list[_Convolution]:
    """All convolutions of a clip, as the engine runs them: the spatial part sees `batch` frames at a time."""
    found = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, ConvLSTM):
            found.extend(_of_layer(module, inputs[0], length))
            return
        x, padding = inputs[0], module.padding
        if isinstance(module, SameConv2d):
            x, padding = module.pad(x, module.kernel_size[0], module.stride[0], module.dilation[0], module.groups)
        together, repeats = (min(batch, length), -(-length // batch)) if module in spatial else (length, 1)
        geometry = (module.stride, padding, module.dilation, module.groups)
        found.append(_Convolution((together, *x.shape[1:]), tuple(module.weight.shape), geometry, repeats))

    spatial = set(model.spatial.modules())
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, ConvLSTM))]
    handles = [module.register_forward_hook(hook) for module in layers]
    with torch.inference_mode():
        model(torch.zeros(1, 1, 3, *size))
    for handle in handles:
        handle.remove()
    return found


def _of_layer(layer: ConvLSTM, x: Tensor, length: int) -> list[_Convolution]:
    """The convolution of all inputs at once, and that of the state, once per frame."""
    channels, height, width = x.shape[2:]
    padding = layer.dilation * (layer.kernel_size // 2)
    geometry = ((1, 1), (padding, padding), (layer.dilation,) * 2, 1)
    return [
        _Convolution((length, channels, height, width), tuple(layer.weight_x.shape), geometry, 1),
        _Convolution((1, layer.hidden_channels, height, width), tuple(layer.weight_h.shape), geometry, length),
    ]
