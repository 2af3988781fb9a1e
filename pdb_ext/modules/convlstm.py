"""`ConvLSTM`: layers of ConvLSTM with the arguments and meanings of `torch.nn.LSTM`."""

import torch
from torch import Tensor

from pdb_ext.checks import (
    check_choice,
    check_choice_of_flag,
    check_peephole,
    check_probabilities,
    check_steps,
    one_of_two,
)
from pdb_ext.reference import convlstm_of_checked

from .options import HasCellOptions, draw_mask
from .stacked import StackedLayer
from .weights import NAMES, State, register_weights


class ConvLSTM(HasCellOptions, StackedLayer):
    """Dilated ConvLSTM layers; equations and gate order as in :func:`pdb_ext.convlstm`, the rest as `torch.nn.LSTM`.

    Time-major like `torch.nn.LSTM` unless batch_first=True (the layers of the paper are batch-first by default).

    Args:
        in_channels: Cin.
        hidden_channels: C; or a list, one width for each layer.
        kernel_size: k, odd, or a pair (kh, kw) of odd numbers. If kh != kw the reference computes the layer.
        num_layers: layers stacked: each one after the first reads the outputs of the one before it.
        bidirectional: each layer runs in both directions of time; its output has both side by side, 2C channels.
        dropout: probability with which, in training, elements of the output of each layer but the last become zero.
        dilation: dilation of the input and the hidden convolution.
        bias: whether the gates have a bias.
        peephole: shape of the peephole weights, broadcastable to (3, C, H, W): for example (3, C, 1, 1) for one
            weight a channel, or (3, 1, 60, 60) for the authors' released model. None: no peepholes.
        output_peephole: whether the output gate reads c_{t-1} ("previous") or c_t ("current").
        padding_mode, activation, recurrent_activation, norm, num_groups: see :func:`pdb_ext.convlstm`. Where one is
            not the default the reference computes the layer.
        recurrent_dropout: probability with which, in training, elements of h_{t-1} are zero in the convolution, the
            others multiplied by 1 / (1 - recurrent_dropout): one mask (N, C, H, W) for each sequence, layer and
            direction, the same at every step (Gal and Ghahramani 2016, with one mask for all gates). In training the
            reference then computes the layer.
        reverse: run backward in time; outputs stay in frame order. Not together with bidirectional.
        batch_first: x and output are (N, T, C, H, W) instead of (T, N, C, H, W). States have no axis for time.
        checkpoint_every, recompute_gates: less memory in training for more computation, see :func:`pdb_ext.convlstm`.
        implementation: "auto", or "reference" for PyTorch's own operators alone, see :func:`pdb_ext.convlstm`.

    Parameters: `weight_x`, `weight_h`, `bias` and `peephole` of layer 0, with norm `norm_weight` and `norm_bias`; those
    of others end in `_l1`, `_l2` ..., those of the second direction in `_reverse`, `_l1_reverse` ...

    Shapes:
        x (T, N, Cin, H, W) or, batch first, (N, T, Cin, H, W). hx (h_0, c_0), zeros if absent, each
        (num_layers * directions, N, C, H, W), in the order layer 0, layer 0 reverse, layer 1 ...; each a list of
        (N, C, H, W) in that order where the widths differ. A single layer in one direction takes and returns states
        (N, C, H, W); given (1, N, C, H, W), it returns that. `state` is another name of hx.
        lengths (N,): the clips' numbers of frames, 1 to T, a list or an integer tensor, for padded batches; what lies
        behind a clip's end is not read, and is zero in the output. On a GPU a list, or a tensor on the CPU, is faster.
        Returns (output, (h_n, c_n)): output like x with C or 2C channels; states of each clip's last step, which is
        frame 0 backward in time.
    """

    kind, op, names = "ConvLSTM", "convlstm", NAMES

    recurrent_dropout = 0.0  # of objects that were pickled before there was one

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | list[int],
        kernel_size: int | tuple[int, int] = 3,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dilation: int = 1,
        bias: bool = True,
        peephole: tuple[int, ...] | None = None,
        output_peephole: str = "previous",
        padding_mode: str = "zeros",
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        norm: str | None = None,
        num_groups: int = 1,
        recurrent_dropout: float = 0.0,
        reverse: bool = False,
        batch_first: bool = False,
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        implementation: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        layers = self._set_options(
            in_channels, hidden_channels, kernel_size, num_layers, bidirectional=bidirectional, dropout=dropout,
            dilation=dilation, reverse=reverse, bias=bias, batch_first=batch_first, implementation=implementation,
        )  # fmt: skip
        check_choice("output_peephole", output_peephole, ("previous", "current"))
        if checkpoint_every is not None:
            check_steps(checkpoint_every)
        check_choice_of_flag("recompute_gates", recompute_gates)
        check_probabilities(recurrent_dropout=recurrent_dropout)
        self._set_cell_options(
            [width for _, _, width, _ in layers], padding_mode=padding_mode, activation=activation,
            recurrent_activation=recurrent_activation, norm=norm, num_groups=num_groups,
        )  # fmt: skip
        self.output_peephole = output_peephole
        self.checkpoint_every = checkpoint_every
        self.recompute_gates = recompute_gates
        self.recurrent_dropout = recurrent_dropout
        for suffix, given, width, sides in layers:
            check_peephole(peephole, width)
            factory = {"device": device, "dtype": dtype}
            register_weights(self, suffix, given, width, sides, bias, peephole, factory)
            self._register_norm(suffix, width, factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1/sqrt(fan-in), like `torch.nn.Conv2d`; the fan-in counts x and h. Peepholes start at 0.

        norm_weight starts at 1, norm_bias at 0.
        """
        super().reset_parameters()
        for suffix, _ in self._directions():
            self._reset_norm(suffix)

    def allows_native(self) -> bool:
        """Whether the options leave the layer to the native op."""
        is_plain = self.implementation == "auto" and isinstance(self.kernel_size, int) and not self.cell_options()
        return is_plain and not (self.training and self.recurrent_dropout)

    def forward(
        self,
        x: Tensor,
        hx: State | None = None,
        lengths: Tensor | list[int] | None = None,
        state: State | None = None,  # by keyword; torch.jit.script knows no arguments that are so alone
    ) -> tuple[Tensor, State]:
        if torch.jit.is_scripting():
            return self._scripted(x, state if hx is None else hx, lengths)
        options = {
            "dilation": self.dilation,
            "output_peephole": self.output_peephole,
            "checkpoint_every": self.checkpoint_every,
            "recompute_gates": self.recompute_gates,
            "implementation": self.implementation,
        }
        hx = one_of_two("hx", hx, "state", state)
        own = [self.cell_options(suffix) for suffix, _ in self._directions()]
        return self._run(x, hx, lengths, [options | of_cell for of_cell in own], self.recurrent_dropout)

    def _scripted(self, x: Tensor, hx: State | None, lengths: Tensor | list[int] | None) -> tuple[Tensor, State]:
        """What `torch.jit.script` compiles in place of `run_stack`."""
        assert lengths is None, "ConvLSTM: torch.jit.script knows no lengths"
        x = x.transpose(0, 1) if self.batch_first else x
        p = float(self.recurrent_dropout) if self.training else 0.0
        output, state = convlstm_of_checked(
            x, self.weight_x, self.weight_h, self.bias, self.peephole, hx, self.dilation, self.reverse,
            self.output_peephole, self._scripted_options(draw_mask(x, self.weight_h.shape[1], p)),
        )  # fmt: skip
        return output.transpose(0, 1) if self.batch_first else output, state

    def _own_repr(self) -> str:
        text = self._cell_repr()
        if self.peephole is not None:
            text = f", peephole={tuple(self.peephole.shape)}, output_peephole={self.output_peephole!r}" + text
        return text + (f", recurrent_dropout={self.recurrent_dropout}" if self.recurrent_dropout else "")
