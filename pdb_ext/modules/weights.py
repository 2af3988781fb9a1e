"""The parameters of one layer in one direction: their names, shapes and first values."""

import math

import torch
from torch import Tensor, nn

NAMES = ("weight_x", "weight_h", "bias", "peephole")
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
State = tuple[Tensor, Tensor]

GRU_NAMES = ("weight_x", "weight_h", "bias")
GRUWeights = tuple[Tensor, Tensor, Tensor | None]


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
    shapes = _gate_shapes(4, in_channels, hidden_channels, sides, bias)
    _register(module, suffix, shapes | {"peephole": peephole}, factory)


def register_gru_weights(
    module: nn.Module,
    suffix: str,
    in_channels: int,
    hidden_channels: int,
    sides: tuple[int, int],
    bias: bool,
    factory: dict,
) -> None:
    """weight_x (3C, Cin, kh, kw), weight_h (3C, C, kh, kw), bias (3C,) or None."""
    _register(module, suffix, _gate_shapes(3, in_channels, hidden_channels, sides, bias), factory)


def _gate_shapes(gates: int, in_channels: int, hidden_channels: int, sides: tuple[int, int], bias: bool) -> dict:
    rows = gates * hidden_channels
    of_x, of_h = (rows, in_channels, *sides), (rows, hidden_channels, *sides)
    return {"weight_x": of_x, "weight_h": of_h, "bias": (rows,) if bias else None}


def _register(module: nn.Module, suffix: str, shapes: dict, factory: dict) -> None:
    for name, shape in shapes.items():
        parameter = None if shape is None else nn.Parameter(torch.empty(*shape, **factory))
        module.register_parameter(name + suffix, parameter)


def weights_of(module: nn.Module, suffix: str, names: tuple[str, ...] = NAMES) -> tuple:
    return tuple([getattr(module, name + suffix) for name in names])


def check_scriptable(module: nn.Module, needed: str | None = None) -> None:
    """Raises NotImplementedError where `torch.jit.script` would otherwise fail deep inside.

    needed: options besides implementation="reference" that the module lacks for it.
    """
    options = [] if module.implementation == "reference" else ['implementation="reference"']
    options += [needed] if needed else []
    if options:
        raise NotImplementedError(
            f"{type(module).__name__}: torch.jit.script can compile this layer only with {' and '.join(options)}; "
            "torch.jit.trace (under torch.no_grad()) and torch.export take every layer"
        )


def refuse_script(module: nn.Module) -> None:
    name = type(module).__name__
    raise NotImplementedError(
        f"{name}: torch.jit.script cannot compile this layer; torch.jit.trace and torch.export can"
    )


def reset_weights(weights: Weights | GRUWeights) -> None:
    """Uniform within 1/sqrt(fan-in), like `torch.nn.Conv2d`; the fan-in counts x and h. Peepholes start at 0."""
    weight_x, weight_h, bias, *peepholes = weights
    bound = 1 / math.sqrt((weight_x.shape[1] + weight_h.shape[1]) * math.prod(weight_x.shape[2:]))
    for parameter in (weight_x, weight_h, bias):
        if parameter is not None:
            nn.init.uniform_(parameter, -bound, bound)
    for peephole in peepholes:
        if peephole is not None:
            nn.init.zeros_(peephole)
