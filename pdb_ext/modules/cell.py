"""`ConvLSTMCell`: one step, with the arguments and meanings of `torch.nn.LSTMCell`."""

import torch
from torch import Tensor
from torch.fx import Proxy

from pdb_ext.checks import (
    check_choice,
    check_flags,
    check_frame,
    check_implementation,
    check_peephole,
    check_sizes,
    check_unbatched_state,
    unpack_kernel_size,
)
from pdb_ext.ops import convlstm, record_call
from pdb_ext.reference import convlstm_of_checked

from .options import HasCellOptions
from .weights import State, Weights, check_scriptable, register_weights, reset_weights, weights_of


class ConvLSTMCell(HasCellOptions):
    """One step of a dilated ConvLSTM; equations and gate order as in :func:`pdb_ext.convlstm`.

    The parameters have the names and shapes of a single :class:`ConvLSTM`: state_dicts fit either. Over frames that
    are all there, a ConvLSTM is faster than a loop of cells.

    Args:
        in_channels, hidden_channels, kernel_size, bias, dilation, peephole, output_peephole, padding_mode, activation,
            recurrent_activation, norm, num_groups, implementation: as in :class:`ConvLSTM`.

    Shapes:
        x (N, Cin, H, W); hx (h, c), each (N, C, H, W), zeros if absent. Returns (h, c), each (N, C, H, W).
        Without a batch: x (Cin, H, W) and states (C, H, W).
        recurrent_mask, broadcastable to the states: factor of h in the convolution. For dropout on the states, which
        has one mask for all steps of a sequence, draw it before the first step:
        `torch.nn.functional.dropout(torch.ones(N, C, H, W), p)`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        *,
        dilation: int = 1,
        peephole: tuple[int, ...] | None = None,
        output_peephole: str = "previous",
        padding_mode: str = "zeros",
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        norm: str | None = None,
        num_groups: int = 1,
        implementation: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, hidden_channels=hidden_channels, dilation=dilation)
        sides = unpack_kernel_size(kernel_size)
        check_flags(bias=bias)
        check_peephole(peephole, hidden_channels)
        check_choice("output_peephole", output_peephole, ("previous", "current"))
        check_implementation(implementation)
        self._set_cell_options(
            (hidden_channels,), padding_mode=padding_mode, activation=activation,
            recurrent_activation=recurrent_activation, norm=norm, num_groups=num_groups,
        )  # fmt: skip
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = sides[0] if sides[0] == sides[1] else sides
        self.dilation = dilation
        self.output_peephole = output_peephole
        self.implementation = implementation
        factory = {"device": device, "dtype": dtype}
        register_weights(self, "", in_channels, hidden_channels, sides, bias, peephole, factory)
        self._register_norm("", hidden_channels, factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As :meth:`ConvLSTM.reset_parameters`."""
        reset_weights(weights_of(self, ""))
        self._reset_norm("")

    def forward(self, x: Tensor, hx: State | None = None, recurrent_mask: Tensor | None = None) -> State:
        if torch.jit.is_scripting():
            return self._scripted(x, hx, recurrent_mask)
        options = {"dilation": self.dilation, "output_peephole": self.output_peephole}
        options |= {"implementation": self.implementation, "recurrent_mask": recurrent_mask}
        options |= self.cell_options()
        return run_cell(x, hx, weights_of(self, ""), name=type(self).__name__, options=options)

    def _scripted(self, x: Tensor, hx: State | None, recurrent_mask: Tensor | None) -> State:
        """What `torch.jit.script` compiles in place of `run_cell`."""
        assert x.dim() == 4, "ConvLSTMCell: under torch.jit.script x must have shape (N, Cin, H, W)"
        _, state = convlstm_of_checked(
            x[None], self.weight_x, self.weight_h, self.bias, self.peephole, hx, self.dilation, False,
            self.output_peephole, self._scripted_options(recurrent_mask),
        )  # fmt: skip
        return state

    def __prepare_scriptable__(self):
        check_scriptable(self)
        return self

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, dilation={self.dilation}"
        if self.bias is None:
            text += ", bias=False"
        if self.peephole is not None:
            text += f", peephole={tuple(self.peephole.shape)}, output_peephole={self.output_peephole!r}"
        text += self._cell_repr()
        return text + (f", implementation={self.implementation!r}" if self.implementation != "auto" else "")


def run_cell(x: Tensor, hx: State | None, weights: Weights, *, name: str, options: dict) -> State:
    """What :class:`ConvLSTMCell` returns. name: the cell in messages. options: those of `pdb_ext.convlstm`."""
    if isinstance(x, Proxy):
        return record_call(run_cell, x, hx, weights, name=name, options=options)
    check_frame(name, x, weights[0].shape[1])
    if x.dim() == 4:
        return convlstm(x[None], *weights, hx, **options)[1]
    check_unbatched_state(name, hx)
    state = hx and tuple(part[None] for part in hx)
    return tuple(part[0] for part in convlstm(x[None, None], *weights, state, **options)[1])
