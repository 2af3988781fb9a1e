"""`StackedLayer`: what ConvLSTM and ConvGRU have in common, the options of `torch.nn.LSTM` and `torch.nn.GRU`."""

import warnings

from torch import nn

from pdb_ext.checks import (
    check_directions,
    check_flags,
    check_implementation,
    check_probabilities,
    check_sizes,
    unpack_kernel_size,
    unpack_widths,
)

from .stack import run_stack
from .weights import check_scriptable, reset_weights, suffix_of, weights_of


class StackedLayer(nn.Module):
    """Layers one above the other, in one direction of time or in both."""

    # The layer in messages; the op; the names of the parameters, before their suffix.
    kind: str
    op: str
    names: tuple[str, ...]

    # Objects that were pickled before these attributes existed have these.
    num_layers, bidirectional, dropout, implementation = 1, False, 0.0, "auto"

    def _set_options(
        self, in_channels, hidden_channels, kernel_size, num_layers, *, bidirectional, dropout, dilation, reverse,
        bias, batch_first, implementation,
    ) -> list[tuple[str, int, int, tuple[int, int]]]:  # fmt: skip
        """Checks the options and sets them. Returns suffix, Cin, C and (kh, kw) of each layer and direction."""
        kind = self.kind
        check_sizes(kind, in_channels=in_channels, num_layers=num_layers, dilation=dilation)
        widths, sides = unpack_widths(hidden_channels, num_layers, kind), unpack_kernel_size(kernel_size, kind)
        check_probabilities(kind, dropout=dropout)
        check_directions(bidirectional, reverse, kind)
        check_flags(kind, bias=bias, batch_first=batch_first)
        check_implementation(implementation, self.op)
        if dropout and num_layers == 1:
            warnings.warn(
                f"{kind}: dropout={dropout} has no effect with num_layers=1: it acts between layers.", stacklevel=3
            )
        self.in_channels = in_channels
        self.hidden_channels = widths[0] if len(set(widths)) == 1 else widths
        self.kernel_size = sides[0] if sides[0] == sides[1] else sides
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.dilation = dilation
        self.reverse = reverse
        self.batch_first = batch_first
        self.implementation = implementation
        given = [in_channels, *((2 if bidirectional else 1) * width for width in widths)]
        return [(suffix, given[layer], widths[layer], sides) for suffix, layer in self._directions()]

    def _directions(self) -> list[tuple[str, int]]:
        """(suffix of the parameters' names, layer) of layer 0, of layer 0 reverse if bidirectional, of layer 1 ..."""
        if self.num_layers == 1 and not self.bidirectional:  # in loops of single steps this is quicker
            return [("", 0)]
        ways = (False, True) if self.bidirectional else (False,)
        return [(suffix_of(layer, way), layer) for layer in range(self.num_layers) for way in ways]

    def _weights(self) -> list[tuple]:
        return [weights_of(self, suffix, self.names) for suffix, _ in self._directions()]

    def _widths(self) -> list[int]:
        """C of each layer and direction."""
        widths, directions = self.hidden_channels, 2 if self.bidirectional else 1
        if isinstance(widths, int):
            return [widths] * (self.num_layers * directions)
        return [width for width in widths for _ in range(directions)]

    def _run(self, x, hx, lengths, options: list[dict], recurrent_dropout: float = 0.0):
        """What forward returns; options: those of the op, of each layer and direction."""
        return run_stack(
            x,
            hx,
            lengths,
            self._weights(),
            op=self.op,
            name=type(self).__name__,
            widths=self._widths(),
            bidirectional=self.bidirectional,
            reverse=self.reverse,
            batch_first=self.batch_first,
            dropout=float(self.dropout) if self.training else 0.0,
            recurrent_dropout=float(recurrent_dropout) if self.training else 0.0,
            options=options,
        )

    def reset_parameters(self) -> None:
        """Uniform within 1/sqrt(fan-in), like `torch.nn.Conv2d`; the fan-in counts x and h. Peepholes start at 0."""
        for weights in self._weights():
            reset_weights(weights)

    def __prepare_scriptable__(self):
        is_single = self.num_layers == 1 and not self.bidirectional
        check_scriptable(self, None if is_single else "num_layers=1 and bidirectional=False")
        return self

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, dilation={self.dilation}"
        if self.num_layers > 1:
            text += f", num_layers={self.num_layers}"
        if self.bidirectional:
            text += ", bidirectional=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bias is None:
            text += ", bias=False"
        text += self._own_repr()
        if self.reverse:
            text += ", reverse=True"
        if self.implementation != "auto":
            text += f", implementation={self.implementation!r}"
        return text + f", batch_first={self.batch_first}"

    def _own_repr(self) -> str:
        """What `extra_repr` says of options that not every layer has."""
        return ""
