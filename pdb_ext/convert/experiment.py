"""Calls of a module with random inputs, under observation: what its convolutions read and what it returns."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .probe import random_like, random_tensor

N, HEIGHT, WIDTH = 2, 5, 4  # of the images of an experiment
_LAZY_PEEPHOLE = re.compile(r"w_?c_?([ifo])$", re.IGNORECASE)


class NotALayer(Exception):
    """The reason why a module that looks like a ConvLSTM is none that the op can compute."""


@dataclasses.dataclass
class Shape:
    """The convolutions of a module that may be a cell: kind, Cin and C."""

    convolutions: dict[str, nn.Conv2d]
    in_channels: int
    channels: int
    joint: bool  # a convolution reads x and h at once


def parameters_of_forward(module: nn.Module) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in kinds]


def peephole_candidates(module: nn.Module, shape: Shape) -> dict[str, Tensor | None]:
    """Three attributes of shape (1, C, H, W) or the like, or three that wait for their first use as None; or none."""
    values = dict(module.__dict__) | module._parameters | module._buffers
    present = {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor) and value.dim() in (3, 4) and shape.channels in value.shape[-3:-2]
    }
    if len(present) == 3:
        return present
    lazy = {name: None for name, value in values.items() if value is None and _LAZY_PEEPHOLE.search(name)}
    return lazy if len(lazy) == 3 else {}


class Experiment:
    """Calls of a cell with random inputs, under observation."""

    def __init__(self, module: nn.Module, shape: Shape, generator: torch.Generator):
        self.module, self.shape, self.generator = module, shape, generator
        like = next(iter(shape.convolutions.values())).weight
        self.peephole = peephole_candidates(module, shape)
        sized = [weight.shape[-2:] for weight in self.peephole.values() if weight is not None]
        height, width = (max(size[axis] for size in sized) for axis in (0, 1)) if sized else (HEIGHT, WIDTH)
        self.size = (height if height > 1 else HEIGHT, width if width > 1 else WIDTH)
        self._fill_peephole(like)
        channels = (shape.in_channels, shape.channels, shape.channels)
        self.x, self.a, self.b = (random_tensor(like, (N, C, *self.size), generator) for C in channels)

    def _fill_peephole(self, like: Tensor) -> None:
        for name, weight in self.peephole.items():
            if weight is None:
                made = like.new_empty(1, self.shape.channels, *self.size).detach()
                self.module.__dict__[name] = made.copy_(random_like(made, self.generator))
            elif not isinstance(weight, nn.Parameter):
                weight = weight.detach().clone()
                self.module.__dict__.pop(name, None)
                target = self.module._buffers if name in self.module._buffers else self.module.__dict__
                target[name] = random_like(weight, self.generator)
        self.peephole = {name: getattr(self.module, name) for name in self.peephole}

    def calls(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], list]]:
        """Ways in which it might be called: names of the arguments, their roles ("ab": a pair), the arguments."""
        names = [parameter.name for parameter in parameters_of_forward(self.module)]
        pair = (self.a, self.b)
        if len(names) >= 2:
            yield tuple(names[:2]), ("x", "ab"), [self.x, pair]
            yield tuple(names[:2]), ("x", "ab"), [self.x, list(pair)]
            yield tuple(names[:2]), ("ab", "x"), [pair, self.x]
        if len(names) >= 3:
            yield tuple(names[:3]), ("x", "a", "b"), [self.x, *pair]
            yield tuple(names[:3]), ("a", "b", "x"), [*pair, self.x]

    def observe(self, arguments: list) -> tuple[Any, list[tuple[str, Tensor, Tensor]]]:
        """What it returns, and path, input and output of every convolution, in the order in which they ran."""
        paths = {convolution: path for path, convolution in self.shape.convolutions.items()}
        seen = []

        def note(convolution, inputs, output):
            seen.append((paths[convolution], inputs[0], output.detach().clone()))

        hooks = [convolution.register_forward_hook(note) for convolution in paths]
        try:
            return type(self.module).forward(self.module, *arguments), seen
        finally:
            for hook in hooks:
                hook.remove()
