"""The parameters of one ConvLSTM layer in one direction: their names, shapes and first values."""

import math

import torch
from torch import Tensor, nn

NAMES = ("weight_x", "weight_h", "bias", "peephole")
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
State = tuple[Tensor, Tensor]


def suffix_of(layer: int, is_reverse: bool) -> str:
    """What follows the names of layer 0 forward, which a single layer has: "", "_reverse", "_l1", "_l1_reverse" ..."""
    return (f"_l{layer}" if layer else "") + ("_reverse" if is_reverse else "")


def register_weights(
    module: nn.Module,
    suffix: str,
    in_channels: int,
    hidden_channels: int,
    sides: tuple[int, int],
    bias: bool,
    peephole: tuple[int, ...] | None,
    factory: dict,
) -> None:
    """weight_x (4C, Cin, kh, kw), weight_h (4C, C, kh, kw), bias (4C,) or None, peephole of that shape or None."""
    rows = 4 * hidden_channels
    shapes = ((rows, in_channels, *sides), (rows, hidden_channels, *sides), (rows,) if bias else None, peephole)
    for name, shape in zip(NAMES, shapes):
        parameter = None if shape is None else nn.Parameter(torch.empty(*shape, **factory))
        module.register_parameter(name + suffix, parameter)


def weights_of(module: nn.Module, suffix: str) -> Weights:
    return tuple(getattr(module, name + suffix) for name in NAMES)


def check_scriptable(module: nn.Module, needed: str | None = None) -> None:
    """Raises NotImplementedError where `torch.jit.script` would otherwise fail deep inside.

    needed: options besides implementation="reference" that the module lacks for it.
    """
    options = [] if module.implementation == "reference" else ['implementation="reference"']
    options += [needed] if needed else []
    if options:
        raise NotImplementedError(
            f"{type(module).__name__}: torch.jit.script can compile this layer only with {' and '.join(options)}; "
            "torch.jit.trace and torch.export take every layer"
        )


def refuse_script(module: nn.Module) -> None:
    name = type(module).__name__
    raise NotImplementedError(
        f"{name}: torch.jit.script cannot compile this layer; torch.jit.trace and torch.export can"
    )


def reset_weights(weights: Weights) -> None:
    """Uniform within 1/sqrt(fan-in), like `torch.nn.Conv2d`; the fan-in counts x and h. Peepholes start at 0."""
    weight_x, weight_h, bias, peephole = weights
    bound = 1 / math.sqrt((weight_x.shape[1] + weight_h.shape[1]) * math.prod(weight_x.shape[2:]))
    for parameter in (weight_x, weight_h, bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -bound, bound)
    if peephole is not None:
        nn.init.zeros_(peephole)
