"""Calls of a module with random inputs, under observation: what its convolutions read and what it returns."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .probe import random_like, random_tensor

N, HEIGHT, WIDTH = 2, 5, 4  # of the images of an experiment
_LAZY_PEEPHOLE = re.compile(r"w_?c_?([ifo])$", re.IGNORECASE)


class NotALayer(Exception):
    """The reason why a module that looks like a ConvLSTM is none that the op can compute."""


class NotCalled(NotALayer):
    """It could not be called like one, which tells less about it than any other reason."""


@dataclasses.dataclass
class Shape:
    """The convolutions of a module that may be a cell: the paths of their weights, Cin and C."""

    weights: tuple[str, ...]
    in_channels: int
    channels: int
    joint: bool  # a convolution reads x and h at once


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution that ran: paths of its weight and bias, what it read, what came out.

    sides: of its kernel; value: a copy of the output; output: the output itself, of which there are gradients.
    """

    weight: str
    bias: str
    sides: tuple[int, int]
    options: tuple
    input: Tensor
    value: Tensor
    output: Tensor


def parameters_of_forward(module: nn.Module) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in kinds]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, buffers and other attributes of the module and everything inside it: path -> tensor."""
    found = {}
    for path, part in module.named_modules():
        for values in (part._parameters, part._buffers, part.__dict__):
            found |= {f"{path}.{name}".lstrip("."): one for name, one in values.items() if isinstance(one, Tensor)}
    return found


def peephole_candidates(module: nn.Module, shape: Shape) -> dict[str, Tensor | None]:
    """Three attributes of shape (1, C, H, W) or the like, or three that wait for their first use as None; or none."""
    values = dict(module.__dict__) | module._parameters | module._buffers
    present = {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor)
        and name not in shape.weights
        and value.dim() in (3, 4)
        and shape.channels in value.shape[-3:-2]
    }
    if len(present) == 3:
        return present
    lazy = {name: None for name, value in values.items() if value is None and _LAZY_PEEPHOLE.search(name)}
    return lazy if len(lazy) == 3 else {}


class _Watch(TorchFunctionMode):
    """Notes convolutions, and all tensors that are given to functions of torch."""

    def __init__(self, paths: dict[int, str]):
        super().__init__()
        self.paths, self.convolutions, self.used = paths, [], set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            self.used |= {id(one) for one in (value if isinstance(value, (tuple, list)) else (value,))}
        result = function(*args, **kwargs)
        if function is not torch.conv2d:
            return result
        self._note(result, *args, **kwargs)
        return result.clone()  # what is done in place to this one leaves the other as it is

    def _note(self, output, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        path = self.paths.get(id(weight), "")
        bias_path = self.paths.get(id(bias), "?") if bias is not None else ""
        pairs = [option if isinstance(option, str) else _pair(option) for option in (stride, padding, dilation)]
        values = input.detach().clone(), output.detach().clone(), output
        sides = tuple(weight.shape[2:])
        self.convolutions.append(Convolution(path, bias_path, sides, (*pairs, groups), *values))


def _pair(value) -> tuple[int, int]:
    parts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return parts * 2 if len(parts) == 1 else parts


class Experiment:
    """Calls of a cell, or of a cell with its loop, with random inputs, under observation."""

    def __init__(
        self, module: nn.Module, shape: Shape, generator: torch.Generator, size: tuple[int, int] | None = None
    ):
        self.module, self.shape, self.generator = module, shape, generator
        like = next(module.parameters())
        self.peephole = peephole_candidates(module, shape)
        sized = [weight.shape[-2:] for weight in self.peephole.values() if weight is not None]
        usual = size or (HEIGHT, WIDTH)
        sides = (max(size[axis] for size in sized) for axis in (0, 1)) if sized else usual
        self.size = tuple(side if side > 1 else other for side, other in zip(sides, usual))
        self._fill_peephole(like)
        self.tensors = tensors_of(module)
        self.used: set[int] = set()
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

    def observe(self, *arguments, **options) -> tuple[Any, list[Convolution]]:
        """What it returns, and every convolution in the order in which they ran."""
        watch = _Watch({id(tensor): path for path, tensor in self.tensors.items()})
        with watch:
            result = type(self.module).forward(self.module, *arguments, **options)
        self.used |= watch.used
        return result, watch.convolutions

    def used_tensors(self) -> dict[str, Tensor]:
        return {path: tensor for path, tensor in self.tensors.items() if id(tensor) in self.used}
