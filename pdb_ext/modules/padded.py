"""Clips of different lengths in one batch: the layer is run between the ends of clips, on those that go on."""

from itertools import pairwise

import torch
from torch import Tensor

from pdb_ext.checks import check_gru_inputs, check_inputs
from pdb_ext.convgru import convgru
from pdb_ext.ops import convlstm

from .weights import GRUWeights, Weights

# What the state of a layer consists of, whichever op computes it. In here a state is a tuple of these, or None.
PARTS = {"convlstm": "hc", "convgru": "h"}
State = tuple[Tensor, ...]


def run_lengths(
    op: str,
    x: Tensor,
    weights: Weights | GRUWeights,
    state: State | None,
    lengths: list[int] | None,
    *,
    reverse: bool,
    **options,
) -> tuple[Tensor, State]:
    """The op, "convlstm" or "convgru", for clips of which x (T, N, Cin, H, W) holds the first `lengths[n]` frames.

    What lies behind a clip's end is not read, is zero in the output and gets a gradient of zero. The last
    state is that at each clip's last step; with reverse=True each clip starts at its own last frame, with its own
    state. None: all clips have T frames.
    """
    function = convlstm if op == "convlstm" else _convgru
    T, N = x.shape[:2]
    if lengths is None or all(length == T for length in lengths):
        return function(x, *weights, state, reverse=reverse, **options)
    _check(op, x, weights, state, reverse, options)
    mask = options.get("recurrent_mask")
    order = sorted(range(N), key=lambda n: -lengths[n])
    x, state = _in_order(x, 1, order), state and tuple(_in_order(part, 0, order) for part in state)
    if mask is not None:
        options["recurrent_mask"] = _in_order(mask, 0, order)
    # (first frame, frame after the last, number of clips that have these frames); longest clips come first.
    ends = [0, *sorted(set(lengths))]
    segments = [(begin, end, sum(length >= end for length in lengths)) for begin, end in pairwise(ends)]
    run = _backward_in_time if reverse else _forward_in_time
    outputs, state = run(function, x, weights, state, segments, options)
    pieces = [_with_zeros(output, 1, N) for output in outputs]
    output = _with_zeros(torch.cat(pieces), 0, T)
    back = sorted(range(N), key=order.__getitem__)
    return _in_order(output, 1, back), tuple(_in_order(part, 0, back) for part in state)


def _convgru(x: Tensor, weight_x: Tensor, weight_h: Tensor, bias: Tensor | None, state: State | None, **options):
    output, h_n = convgru(x, weight_x, weight_h, bias, state and state[0], **options)
    return output, (h_n,)


def _check(op: str, x: Tensor, weights, state: State | None, reverse: bool, options: dict) -> None:
    if op == "convlstm":
        check_inputs(x, *weights, state, options["dilation"], reverse, options["output_peephole"])
    else:
        check_gru_inputs(x, *weights, state and state[0], options["dilation"], reverse)


def _forward_in_time(function, x, weights, state, segments, options) -> tuple[list[Tensor], State]:
    outputs, ended = [], []
    going_on = [active for _, _, active in segments[1:]] + [0]
    for (begin, end, active), remaining in zip(segments, going_on):
        state = state and tuple(part[:active] for part in state)
        options_of_clips = _of_first(options, active)
        output, state = function(x[begin:end, :active], *weights, state, reverse=False, **options_of_clips)
        outputs.append(output)
        ended.append(tuple(part[remaining:] for part in state))
    return outputs, tuple(torch.cat(parts[::-1]) for parts in zip(*ended))


def _backward_in_time(function, x, weights, initial, segments, options) -> tuple[list[Tensor], State]:
    outputs, state, active_before = [], None, 0
    for begin, end, active in reversed(segments):
        joining = initial and tuple(part[active_before:active] for part in initial)
        if state is not None:
            joining = joining or tuple(part.new_zeros(active - active_before, *part.shape[1:]) for part in state)
            joining = tuple(torch.cat(parts) for parts in zip(state, joining))
        options_of_clips = _of_first(options, active)
        output, state = function(x[begin:end, :active], *weights, joining, reverse=True, **options_of_clips)
        outputs.append(output)
        active_before = active
    return outputs[::-1], state


def _of_first(options: dict, active: int) -> dict:
    mask = options.get("recurrent_mask")
    return options if mask is None else options | {"recurrent_mask": mask[:active]}


def _in_order(tensor: Tensor, axis: int, order: list[int]) -> Tensor:
    if order == list(range(len(order))):
        return tensor
    return tensor.index_select(axis, torch.tensor(order, device=tensor.device))


def _with_zeros(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Followed by zeros, up to `size` along `axis`."""
    shape = list(tensor.shape)
    shape[axis] = size - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis) if shape[axis] else tensor
