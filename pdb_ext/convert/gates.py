"""How the gates of a recognised ConvLSTM lie in its tensors; the weights for the op, read anew in every call."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active as are_functorch_transforms_active


@dataclasses.dataclass(frozen=True)
class Rows:
    """One of `of` equal parts of a tensor along its first dimension, that of a gate. tensor: its path in the module."""

    tensor: str
    number: int
    of: int


# The rows for the gates i, f, o, g, or the path of a tensor that has them in this order.
Gates = tuple[Rows | None, ...] | str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Where the weights of :func:`pdb_ext.convlstm` are found in a module.

    weights: path and shape of every weight of a convolution.
    x, h: rows of the weights of x and of h for the gates i, f, o, g. Where one convolution reads both, they are the
    same, and `order` is "xh" or "hx", the order in which it reads them, else "".
    bias: terms of the bias; rows are None for a gate without, and have C values or one for all.
    peephole: attributes with the weights of i, f, o; none: no peepholes.
    forget_bias: a constant added to the forget gate.
    """

    in_channels: int
    channels: int
    dilation: int
    weights: tuple[tuple[str, tuple[int, ...]], ...]
    x: Gates
    h: Gates
    order: str = ""
    bias: tuple[Gates, ...] = ()
    peephole: tuple[str, ...] = ()
    output_peephole: str = "previous"
    forget_bias: float = 0.0

    @property
    def kernel_size(self) -> int:
        return self.weights[0][1][-1]


def tensor_at(module: nn.Module, path: str) -> Tensor | None:
    """The tensor of that path as it is now; None if there is none."""
    *parents, name = path.split(".")
    for parent in parents:
        module = module._modules.get(parent)
    value = getattr(module, name, None)
    return value if isinstance(value, Tensor) else None


def live_weights(module: nn.Module, recipe: Recipe) -> dict[str, Tensor] | None:
    """The weights of the convolutions as they are now; None if one has gone or has another shape."""
    found = {}
    for path, shape in recipe.weights:
        found[path] = weight = tensor_at(module, path)
        if weight is None or weight.shape != shape:
            return None
    return found


def live_peephole(module: nn.Module, recipe: Recipe, weight: Tensor) -> list[Tensor] | None:
    """The peephole weights as they are now, each (1, C, H, W) or broadcastable.

    None if one does not exist yet, or would change the dtype of what the convolutions give, as a tensor that is no
    parameter may after the module's dtype has changed.
    """
    found = [getattr(module, name, None) for name in recipe.peephole]
    if not all(isinstance(one, Tensor) and _can_be_added(one, weight) for one in found):
        return None
    return [one.to(weight.dtype) for one in found]


class Rearranged:
    """Makes a weight of the op of parts of other tensors.

    In inference on the CPU it lies at the same place in every call, since there the op remembers what it has prepared
    of a weight by the place, and compares the values. Copies begin without one.
    """

    def __init__(self):
        self.free: list[Tensor] = []  # none while it is in use, as by another thread

    def __reduce__(self):
        return Rearranged, ()

    def take(self, parts: Sequence[Tensor]) -> Tensor:
        """The parts, one below the other."""
        first = parts[0]
        if len(parts) == 1 and first.is_contiguous():
            return first
        try:
            place = self.free.pop()
        except IndexError:
            return torch.cat(parts)
        is_good = place.shape[1:] == first.shape[1:] and place.dtype == first.dtype
        if not is_good or (place.is_inference() and not torch.is_inference_mode_enabled()):
            return torch.cat(parts)
        return place.copy_(first) if len(parts) == 1 else torch.cat(parts, out=place)

    def give_back(self, weight: Tensor, parts: Sequence[Tensor]) -> None:
        """To be called when the op has used what was taken."""
        if weight is not parts[0] and not self.free:
            self.free.append(weight)


def can_take_place(weight: Tensor) -> bool:
    """Whether weights may lie where those of the call before lay: no graph and no program refers to these."""
    return (
        not torch.is_grad_enabled()
        and weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not are_functorch_transforms_active()
    )


def op_weights(weights: dict[str, Tensor], recipe: Recipe) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What lies one below the other in weight_x (4C, Cin, k, k) and in weight_h (4C, C, k, k)."""
    if not recipe.order:
        return _parts(weights, recipe.x), _parts(weights, recipe.h)
    sizes = (recipe.in_channels, recipe.channels)
    if recipe.order == "xh":
        halves = {path: weight.split(sizes, dim=1) for path, weight in weights.items()}
    else:
        halves = {path: weight.split(sizes[::-1], dim=1)[::-1] for path, weight in weights.items()}
    return tuple(_parts({path: both[half] for path, both in halves.items()}, recipe.x) for half in (0, 1))


def joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _parts(weights: dict[str, Tensor], gates: Gates) -> list[Tensor]:
    if isinstance(gates, str):
        return [weights[gates]]
    split = {path: weights[path].chunk(of) for path, of in dict.fromkeys((part.tensor, part.of) for part in gates)}
    return [split[part.tensor][part.number] for part in gates]


def op_bias(module: nn.Module, recipe: Recipe, weight: Tensor) -> Tensor | None:
    """(4C,), or None if there is none; gradients reach the module's parameters.

    NotImplemented if a bias would change the dtype of what the convolutions give, or is on another device.
    """
    C, bias = recipe.channels, None
    for gates in recipe.bias:
        rows = (gates,) if isinstance(gates, str) else gates
        found = [None if part is None else tensor_at(module, getattr(part, "tensor", part)) for part in rows]
        if not all(tensor is None or _can_be_added(tensor, weight) for tensor in found):
            return NotImplemented
        term = found[0] if isinstance(gates, str) else _joined_bias(found, gates, C, weight)
        if term is not None:
            bias = term if bias is None else bias + term
    if recipe.forget_bias:
        constant = weight.new_zeros(4, C)
        constant[1] = recipe.forget_bias
        bias = constant.flatten() if bias is None else bias + constant.flatten()
    return bias


def _can_be_added(bias: Tensor, weight: Tensor) -> bool:
    is_as_wide = bias.dtype == weight.dtype or torch.promote_types(bias.dtype, weight.dtype) == weight.dtype
    return is_as_wide and bias.device == weight.device


def shortened(gates: tuple[Rows | None, ...]) -> Gates:
    first = gates[0]
    is_whole = first is not None and all(rows == Rows(first.tensor, gate, 4) for gate, rows in enumerate(gates))
    return first.tensor if is_whole else gates


def _joined_bias(
    tensors: Sequence[Tensor | None], gates: Sequence[Rows | None], C: int, weight: Tensor
) -> Tensor | None:
    """One term of the bias; None if there is none of it now."""
    if all(tensor is None for tensor in tensors):
        return None
    return torch.cat([
        weight.new_zeros(C) if tensor is None else bias_of(tensor, rows, C).to(weight.dtype)
        for tensor, rows in zip(tensors, gates)
    ])  # fmt: skip


def bias_of(tensor: Tensor, rows: Rows, C: int) -> Tensor:
    """(C,): of a bias of one gate or of four, each with C values or one for all."""
    return tensor.reshape(rows.of, -1)[rows.number].expand(C)


def op_peephole(peephole: list[Tensor]) -> Tensor:
    """The weights of i, f, o, each (1, C, H, W) or (C, H, W) or broadcastable to that, in one tensor (3, C, H, W)."""
    each = [weight.reshape((1,) * (4 - weight.dim()) + tuple(weight.shape)) for weight in peephole]
    return torch.cat(torch.broadcast_tensors(*each))
