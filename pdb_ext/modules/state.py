"""The states of a stack of layers, as users pass and get them; the lengths of clips."""

import torch
from torch import Tensor

from pdb_ext.checks import fail_of_layer


def unpack_state(name: str, hx, widths: list[int], x: Tensor, parts: str = "hc") -> tuple[list, bool]:
    """(the state of each layer and direction, a tuple or None, whether the answer is to have an axis for these).

    hx: None or (h_0, c_0), each (count, N, C, H, W) with count = len(widths); where widths differ, each a list of
    (N, C, H, W); for a single layer also each (N, C, H, W). With parts="h" it is h_0 itself. x: (T, N, Cin, H, W).
    """
    count = len(widths)
    if hx is None:
        return [None] * count, count > 1
    if len(parts) == 1:
        hx = (hx,)
    is_complete = isinstance(hx, (tuple, list)) and len(hx) == len(parts)
    if count == 1 and not (is_complete and all(isinstance(part, Tensor) and part.dim() == 5 for part in hx)):
        return [hx], False  # the op checks it
    if not is_complete:
        length = f" of length {len(hx)}" if isinstance(hx, (tuple, list)) else ""
        fail_of_layer(name, "hx", "be None or a pair (h_0, c_0)", f"{type(hx).__name__}{length}")
    which = ["hx"] if len(parts) == 1 else [f"hx[{i}] ({part}_0)" for i, part in enumerate(parts)]
    split = [_split(name, *named, widths, x) for named in zip(which, hx)]
    return list(zip(*split)), True


def _split(name: str, which: str, part, widths: list[int], x: Tensor) -> tuple[Tensor, ...]:
    _, N, _, H, W = x.shape
    count = len(widths)
    if _differ(widths):
        if not isinstance(part, (tuple, list)) or len(part) != count or not all(isinstance(t, Tensor) for t in part):
            expected = f"be a list of {count} tensors (N, C, H, W), one for each layer and direction"
            fail_of_layer(name, which, expected, _described(part))
        for i, (tensor, C) in enumerate(zip(part, widths)):
            if tuple(tensor.shape) != (N, C, H, W):
                expected = f"have shape (N, C, H, W) = {(N, C, H, W)}"
                fail_of_layer(name, f"{which}, element {i},", expected, _described(tensor))
        return tuple(part)
    expected = (count, N, widths[0], H, W)
    if not isinstance(part, Tensor) or tuple(part.shape) != expected:
        formula = "(num_layers * directions, N, C, H, W)"
        fail_of_layer(name, which, f"be a tensor of shape {formula} = {expected}", _described(part))
    return part.unbind()


def pack_state(ends: list[tuple], widths: list[int], has_layers: bool):
    """(h_n, c_n), or h_n, in the form that `unpack_state` reads."""
    if has_layers:
        state = tuple(list(part) if _differ(widths) else torch.stack(part) for part in zip(*ends))
    else:
        state = ends[0]
    return state if len(state) > 1 else state[0]


def unpack_lengths(name: str, lengths: Tensor | list[int] | None, x: Tensor) -> list[int] | None:
    """The lengths as integers; x: (T, N, Cin, H, W)."""
    if lengths is None:
        return None
    T, N = x.shape[:2]
    expected = f"be None or N = {N} integers from 1 to T = {T}, in a list or an integer tensor (N,)"
    if isinstance(lengths, Tensor):
        is_integer = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
        if lengths.dim() != 1 or not is_integer:
            fail_of_layer(name, "lengths", expected, f"{_described(lengths)} of dtype {lengths.dtype}")
        lengths = lengths.tolist()
    if not isinstance(lengths, (tuple, list)) or len(lengths) != N:
        length = f" of length {len(lengths)}" if hasattr(lengths, "__len__") else ""
        fail_of_layer(name, "lengths", expected, f"{type(lengths).__name__}{length}")
    for length in lengths:
        if type(length) is not int or not 1 <= length <= T:
            fail_of_layer(name, "lengths", expected, repr(list(lengths)))
    return list(lengths)


def _differ(widths: list[int]) -> bool:
    return len(set(widths)) > 1


def _described(value) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
