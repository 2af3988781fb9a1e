"""One call of a stack of ConvLSTM or ConvGRU layers, each in one direction of time or in both."""

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn.functional import dropout as drop

from pdb_ext.checks import check_sequence
from pdb_ext.ops import record_call

from .options import draw_mask
from .padded import PARTS, run_lengths
from .state import pack_state, unpack_lengths, unpack_state
from .weights import GRUWeights, State, Weights


def run_stack(
    x: Tensor,
    hx: State | Tensor | list[Tensor] | None,
    lengths: Tensor | list[int] | None,
    weights: list[Weights] | list[GRUWeights],
    *,
    name: str,
    widths: list[int],
    bidirectional: bool,
    reverse: bool,
    batch_first: bool,
    dropout: float,
    recurrent_dropout: float,
    options: list[dict],
    op: str,
) -> tuple[Tensor, State | Tensor | list[Tensor]]:
    """What :class:`ConvLSTM` returns, where op is "convlstm", or :class:`ConvGRU`, where it is "convgru".

    weights: of layer 0, of layer 0 reverse if bidirectional, of layer 1 ...; widths: C of each of these.
    options: those of the op, of each of these. name: the layer in messages. dropout: between layers,
    recurrent_dropout: of states; both 0 outside training.
    """
    if isinstance(x, Proxy):  # The whole stack becomes one node: its loops depend on sizes, which a proxy has not.
        return record_call(
            run_stack, x, hx, lengths, weights, name=name, widths=widths, bidirectional=bidirectional, reverse=reverse,
            batch_first=batch_first, dropout=dropout, recurrent_dropout=recurrent_dropout, options=options, op=op,
        )  # fmt: skip
    directions = 2 if bidirectional else 1
    in_channels = weights[0][0].shape[1]
    check_sequence(name, x, in_channels, batch_first)
    if batch_first:
        x = x.transpose(0, 1)
    states, has_layers = unpack_state(name, hx, widths, x, PARTS[op])
    lengths = unpack_lengths(name, lengths, x)
    ends = []
    for first in range(0, len(widths), directions):
        outputs = []
        for i in range(first, first + directions):
            is_reverse = reverse or i > first
            own = options[i]
            if recurrent_dropout:
                own = own | {"recurrent_mask": draw_mask(x, widths[i], recurrent_dropout)}
            output, end = run_lengths(op, x, weights[i], states[i], lengths, reverse=is_reverse, **own)
            outputs.append(output)
            ends.append(end)
        x = torch.cat(outputs, dim=2) if bidirectional else outputs[0]
        if dropout and first + directions < len(widths):
            x = drop(x, dropout)
    return x.transpose(0, 1) if batch_first else x, pack_state(ends, widths, has_layers)
