"""How the gates of a recognised ConvLSTM lie in its convolutions; the weights for the op, read anew in every call."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .kept import has_hooks


@dataclasses.dataclass(frozen=True)
class Rows:
    """C rows of the output of a convolution: those from `number` * C on. convolution: its path in the module."""

    convolution: str
    number: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Where the weights of :func:`pdb_ext.convlstm` are found in a module.

    x, h: rows of the convolutions of x and of h for the gates i, f, o, g. Where one convolution reads both, they are
    the same, and `order` is "xh" or "hx", the order in which it reads them, else "".
    peephole: attributes with the weights of i, f, o; none: no peepholes.
    forget_bias: a constant added to the forget gate.
    """

    in_channels: int
    channels: int
    dilation: int
    x: tuple[Rows, ...]
    h: tuple[Rows, ...]
    order: str = ""
    peephole: tuple[str, ...] = ()
    output_peephole: str = "previous"
    forget_bias: float = 0.0

    @property
    def convolutions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rows.convolution for rows in (*self.x, *self.h)))


def is_plain(convolution: nn.Module) -> bool:
    """Whether a convolution does nothing but convolve: exactly nn.Conv2d, without hooks, weights that are its own."""
    return type(convolution) is nn.Conv2d and not has_hooks(convolution) and "forward" not in convolution.__dict__


def live_convolutions(module: nn.Module, recipe: Recipe) -> dict[str, nn.Conv2d] | None:
    """The convolutions as they are now; None if one has been changed into something else."""
    found = {path: module.get_submodule(path) for path in recipe.convolutions}
    return found if all(is_plain(convolution) for convolution in found.values()) else None


def live_peephole(module: nn.Module, recipe: Recipe) -> list[Tensor] | None:
    """The peephole weights as they are now, each (1, C, H, W) or broadcastable; None if one does not exist yet."""
    found = [getattr(module, name, None) for name in recipe.peephole]
    return found if all(isinstance(weight, Tensor) for weight in found) else None


def op_weights(
    module: nn.Module, recipe: Recipe, convolutions: dict[str, nn.Conv2d]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """weight_x (4C, Cin, k, k), weight_h (4C, C, k, k), bias (4C,) or None; gradients reach the module's parameters."""
    C, split = recipe.channels, recipe.in_channels if recipe.order == "xh" else recipe.channels
    weight_x = _stacked(convolutions, recipe.x, "weight", C)
    if recipe.order:
        first, second = weight_x[:, :split], weight_x[:, split:]
        weight_x, weight_h = (first, second) if recipe.order == "xh" else (second, first)
    else:
        weight_h = _stacked(convolutions, recipe.h, "weight", C)
    biases = [_stacked(convolutions, recipe.x, "bias", C)]
    if not recipe.order:
        biases.append(_stacked(convolutions, recipe.h, "bias", C))
    biases = [bias for bias in biases if bias is not None]
    bias = sum(biases[1:], biases[0]) if biases else None
    if recipe.forget_bias:
        constant = weight_x.new_zeros(4, C)
        constant[1] = recipe.forget_bias
        bias = constant.flatten() if bias is None else bias + constant.flatten()
    return weight_x, weight_h, bias


def _stacked(convolutions: dict[str, nn.Conv2d], rows: Iterable[Rows], name: str, C: int) -> Tensor | None:
    """The rows of weight or bias, one below the other; None if no convolution has a bias."""
    rows = tuple(rows)
    tensors = [getattr(convolutions[part.convolution], name) for part in rows]
    if all(tensor is None for tensor in tensors):
        return None
    whole = tensors[0]
    if all(tensor is whole for tensor in tensors) and [part.number for part in rows] == [0, 1, 2, 3]:
        return whole
    like = next(tensor for tensor in tensors if tensor is not None)
    parts = [
        like.new_zeros(C) if tensor is None else tensor[part.number * C : (part.number + 1) * C]
        for tensor, part in zip(tensors, rows)
    ]
    return torch.cat(parts)


def op_peephole(peephole: list[Tensor]) -> Tensor:
    """The weights of i, f, o, each (1, C, H, W) or (C, H, W) or broadcastable to that, in one tensor (3, C, H, W)."""
    each = [weight.reshape((1,) * (4 - weight.dim()) + tuple(weight.shape)) for weight in peephole]
    return torch.cat(torch.broadcast_tensors(*each))
