"""ConvLSTM layers with the conventions of `torch.nn.LSTM`."""

import math

import torch
from torch import Tensor, nn

from .checks import (
    check_choice,
    check_choice_of_flag,
    check_kernel_size,
    check_peephole,
    check_sequence,
    check_sizes,
    check_steps,
    unpack_states,
)
from .merge import tanh_merge
from .ops import convlstm
from .pdb_convlstm import pdb_convlstm, runs_in_one_op

State = tuple[Tensor, Tensor]


class ConvLSTM(nn.Module):
    """One dilated ConvLSTM layer; equations and gate order as in :func:`pdb_ext.convlstm`.

    Time-major like `torch.nn.LSTM` unless batch_first=True (the layers of the paper below are batch-first by default).

    Args:
        in_channels: Cin.
        hidden_channels: C.
        kernel_size: k, odd.
        dilation: dilation of the input and the hidden convolution.
        bias: whether the gates have a bias.
        peephole: shape of the peephole weights, broadcastable to (3, C, H, W): for example (3, C, 1, 1) for one
            weight a channel, or (3, 1, 60, 60) for the authors' released model. None: no peepholes.
        output_peephole: whether the output gate reads c_{t-1} ("previous") or c_t ("current").
        reverse: run backward in time; outputs stay in frame order.
        batch_first: x and output are (N, T, C, H, W) instead of (T, N, C, H, W). States are (N, C, H, W) either way.
        checkpoint_every, recompute_gates: less memory in training for more computation, see :func:`pdb_ext.convlstm`.

    Shapes:
        x (T, N, Cin, H, W) or, batch first, (N, T, Cin, H, W); state (h_0, c_0), each (N, C, H, W), zeros if absent.
        Returns (output, (h_n, c_n)): output like x with C channels.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        bias: bool = True,
        peephole: tuple[int, ...] | None = None,
        output_peephole: str = "previous",
        reverse: bool = False,
        batch_first: bool = False,
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, hidden_channels=hidden_channels, dilation=dilation)
        check_kernel_size(kernel_size)
        check_choice("output_peephole", output_peephole, ("previous", "current"))
        check_peephole(peephole, hidden_channels)
        if checkpoint_every is not None:
            check_steps(checkpoint_every)
        check_choice_of_flag("recompute_gates", recompute_gates)
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.output_peephole = output_peephole
        self.reverse = reverse
        self.batch_first = batch_first
        self.checkpoint_every = checkpoint_every
        self.recompute_gates = recompute_gates
        kernel = (kernel_size, kernel_size)
        factory = {"device": device, "dtype": dtype}
        rows = 4 * hidden_channels
        self.weight_x = nn.Parameter(torch.empty(rows, in_channels, *kernel, **factory))
        self.weight_h = nn.Parameter(torch.empty(rows, hidden_channels, *kernel, **factory))
        self.register_parameter("bias", nn.Parameter(torch.empty(rows, **factory)) if bias else None)
        self.register_parameter(
            "peephole", nn.Parameter(torch.empty(*peephole, **factory)) if peephole is not None else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1/sqrt(fan-in), like `torch.nn.Conv2d`; the fan-in counts x and h. Peepholes start at 0."""
        fan_in = (self.in_channels + self.hidden_channels) * self.kernel_size**2
        bound = 1 / math.sqrt(fan_in)
        for parameter in (self.weight_x, self.weight_h, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        if self.peephole is not None:
            nn.init.zeros_(self.peephole)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_sequence(type(self).__name__, x, self.in_channels, self.batch_first)
        output, state = convlstm(
            x.transpose(0, 1) if self.batch_first else x,
            self.weight_x,
            self.weight_h,
            self.bias,
            self.peephole,
            state,
            dilation=self.dilation,
            reverse=self.reverse,
            output_peephole=self.output_peephole,
            checkpoint_every=self.checkpoint_every,
            recompute_gates=self.recompute_gates,
        )
        return output.transpose(0, 1) if self.batch_first else output, state

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, dilation={self.dilation}"
        if self.bias is None:
            text += ", bias=False"
        if self.peephole is not None:
            text += f", peephole={tuple(self.peephole.shape)}, output_peephole={self.output_peephole!r}"
        if self.reverse:
            text += ", reverse=True"
        return text + f", batch_first={self.batch_first}"


class DBConvLSTM(nn.Module):
    """Deeper bidirectional ConvLSTM (Song et al. 2018, §3.2): a backward-in-time layer over a forward layer's outputs.

    The forward layer turns x into H^f (Eq. 4); the backward layer reads H^f alone, from the last frame to the first,
    and gives H^b (Eq. 6). `merge` combines them:

    - "tanh": Y_t = tanh(W^f * H^f_t + W^b * H^b_t), Eq. 5, two dilated convolutions with one bias. Eq. 5 prints the
      index t-1 on H^b; it is read here as the same frame t, as the text around it says ("the forward features and
      the backward features are combined") and as the authors' released model does.
    - "sum": Y_t = H^f_t + H^b_t, the released model; no weights.

    Arguments as in :class:`ConvLSTM`; `peephole` and `output_peephole` hold for both layers.

    Shapes:
        x (N, T, Cin, H, W), or (T, N, Cin, H, W) with batch_first=False; state ((h_f, c_f), (h_b, c_b)), each
        (N, C, H, W), where the backward state enters at the last frame. Returns (output, state): output like x
        with C channels; the returned backward state is that at frame 0.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        *,
        dilation: int = 1,
        merge: str = "tanh",
        bias: bool = True,
        peephole: tuple[int, ...] | None = None,
        output_peephole: str = "previous",
        batch_first: bool = True,
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_choice("merge", merge, ("tanh", "sum"))
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.merge = merge
        self.batch_first = batch_first
        factory = {"device": device, "dtype": dtype}
        options = {"dilation": dilation, "bias": bias, "peephole": peephole, "output_peephole": output_peephole}
        options |= {"checkpoint_every": checkpoint_every, "recompute_gates": recompute_gates}
        self.forward_layer = ConvLSTM(in_channels, hidden_channels, kernel_size, **options, **factory)
        self.backward_layer = ConvLSTM(
            hidden_channels, hidden_channels, kernel_size, reverse=True, **options, **factory
        )
        if merge == "tanh":
            convolution = {"padding": dilation * (kernel_size // 2), "dilation": dilation, **factory}
            channels = (hidden_channels, hidden_channels, kernel_size)
            self.merge_forward = nn.Conv2d(*channels, **convolution)
            self.merge_backward = nn.Conv2d(*channels, bias=False, **convolution)

    def reset_parameters(self) -> None:
        for layer in self.children():
            layer.reset_parameters()

    def forward(self, x: Tensor, state: tuple[State, State] | None = None) -> tuple[Tensor, tuple[State, State]]:
        check_sequence(type(self).__name__, x, self.in_channels, self.batch_first)
        state_f, state_b = unpack_states("state", state, 2, "((h_f, c_f), (h_b, c_b))")
        if self.batch_first:
            x = x.transpose(0, 1)
        if runs_in_one_op(x, self._layers(), [state_f, state_b]):
            (h_f, state_f), (h_b, state_b) = pdb_convlstm(x, self._layers(), [state_f, state_b])
        else:
            h_f, state_f = self.forward_layer(x, state_f)
            h_b, state_b = self.backward_layer(h_f, state_b)
        return self._merged(h_f, h_b), (state_f, state_b)

    def _layers(self) -> list[ConvLSTM]:
        return [self.forward_layer, self.backward_layer]

    def _merged(self, h_f: Tensor, h_b: Tensor) -> Tensor:
        if self.merge == "tanh":
            # Replaced layers (decomposed for export, for instance) are of another class: then nothing may need our ops.
            own = all(isinstance(layer, ConvLSTM) for layer in self._layers())
            y = tanh_merge(h_f, h_b, self.merge_forward, self.merge_backward, native=own)
        else:
            y = h_f + h_b
        return y.transpose(0, 1) if self.batch_first else y

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}, batch_first={self.batch_first}"


class PDBConvLSTM(nn.Module):
    """Pyramid dilated bidirectional ConvLSTM (Song et al. 2018, §3.2): parallel DB-ConvLSTMs, one for each dilation.

    Args:
        dilations: one branch for each; (1, 2) in the paper.
        The others as in :class:`DBConvLSTM`.

    Shapes:
        x (N, T, Cin, H, W), or (T, N, Cin, H, W) with batch_first=False; states: one DBConvLSTM state for each branch.
        Returns (output, states): output like x with len(dilations) * C channels, branches in the order of `dilations`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int = 3,
        dilations: tuple[int, ...] = (1, 2),
        merge: str = "tanh",
        peephole: tuple[int, ...] | None = None,
        batch_first: bool = True,
        *,
        bias: bool = True,
        output_peephole: str = "previous",
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(dilations, (tuple, list)) or not dilations:
            raise ValueError(f"PDBConvLSTM: dilations must be a tuple of at least one dilation, got {dilations!r}")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.dilations = tuple(dilations)
        self.batch_first = batch_first
        options = {"merge": merge, "peephole": peephole, "batch_first": batch_first, "bias": bias}
        options |= {"output_peephole": output_peephole, "checkpoint_every": checkpoint_every}
        options |= {"recompute_gates": recompute_gates, "device": device, "dtype": dtype}
        self.branches = nn.ModuleList(
            DBConvLSTM(in_channels, hidden_channels, kernel_size, dilation=dilation, **options)
            for dilation in self.dilations
        )

    def reset_parameters(self) -> None:
        for branch in self.branches:
            branch.reset_parameters()

    def forward(self, x: Tensor, states: tuple | None = None) -> tuple[Tensor, tuple]:
        check_sequence(type(self).__name__, x, self.in_channels, self.batch_first)
        states = unpack_states("states", states, len(self.branches), "one DBConvLSTM state for each branch")
        frames = x.transpose(0, 1) if self.batch_first else x
        layers = [layer for branch in self.branches for layer in branch._layers()]
        pairs = [unpack_states("state", state, 2, "((h_f, c_f), (h_b, c_b))") for state in states]
        if runs_in_one_op(frames, layers, [state for pair in pairs for state in pair]):
            results = pdb_convlstm(frames, layers, [state for pair in pairs for state in pair])
            outputs, states = [], []
            for branch, (h_f, state_f), (h_b, state_b) in zip(self.branches, results[::2], results[1::2]):
                outputs.append(branch._merged(h_f, h_b))
                states.append((state_f, state_b))
        else:
            outputs, states = zip(*(branch(x, state) for branch, state in zip(self.branches, states)))
        return torch.cat(outputs, dim=2), tuple(states)

    def extra_repr(self) -> str:
        return f"dilations={self.dilations}, batch_first={self.batch_first}"
