"""The layers of Song et al. 2018: DBConvLSTM and PDBConvLSTM."""

import torch
from torch import Tensor, nn

from pdb_ext.checks import check_choice, check_flags, check_sequence, check_sizes, unpack_kernel_size, unpack_states
from pdb_ext.merge import tanh_merge
from pdb_ext.pdb_convlstm import pdb_convlstm, runs_in_one_op

from .convlstm import ConvLSTM
from .state import unpack_lengths
from .weights import State, refuse_script


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
        (N, C, H, W), where the backward state enters at the last frame; lengths as in :class:`ConvLSTM`. Returns
        (output, state): output like x with C channels; the returned backward state is that at frame 0.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        dilation: int = 1,
        merge: str = "tanh",
        bias: bool = True,
        peephole: tuple[int, ...] | None = None,
        output_peephole: str = "previous",
        batch_first: bool = True,
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        implementation: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_choice("merge", merge, ("tanh", "sum"))
        check_sizes(dilation=dilation)
        check_flags("DBConvLSTM", batch_first=batch_first)
        sides = unpack_kernel_size(kernel_size)
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.merge = merge
        self.batch_first = batch_first
        factory = {"device": device, "dtype": dtype}
        options = {"dilation": dilation, "bias": bias, "peephole": peephole, "output_peephole": output_peephole}
        options |= {"checkpoint_every": checkpoint_every, "recompute_gates": recompute_gates}
        options["implementation"] = implementation
        self.forward_layer = ConvLSTM(in_channels, hidden_channels, kernel_size, **options, **factory)
        self.backward_layer = ConvLSTM(
            hidden_channels, hidden_channels, kernel_size, reverse=True, **options, **factory
        )
        if merge == "tanh":
            padding = tuple(dilation * (side // 2) for side in sides)
            convolution = {"padding": padding, "dilation": dilation, **factory}
            channels = (hidden_channels, hidden_channels, sides)
            self.merge_forward = nn.Conv2d(*channels, **convolution)
            self.merge_backward = nn.Conv2d(*channels, bias=False, **convolution)

    def reset_parameters(self) -> None:
        for layer in self.children():
            layer.reset_parameters()

    def forward(
        self, x: Tensor, state: tuple[State, State] | None = None, lengths: Tensor | list[int] | None = None
    ) -> tuple[Tensor, tuple[State, State]]:
        check_sequence(type(self).__name__, x, self.in_channels, self.batch_first)
        state_f, state_b = unpack_states("state", state, 2, "((h_f, c_f), (h_b, c_b))")
        if self.batch_first:
            x = x.transpose(0, 1)
        if lengths is None and self._is_own() and runs_in_one_op(x, self._layers(), [state_f, state_b]):
            (h_f, state_f), (h_b, state_b) = pdb_convlstm(x, self._layers(), [state_f, state_b])
        else:
            lengths = unpack_lengths(type(self).__name__, lengths, x)
            rest = () if lengths is None else (lengths,)
            h_f, state_f = self.forward_layer(x, state_f, *rest)
            h_b, state_b = self.backward_layer(h_f, state_b, *rest)
        return self._merged(h_f, h_b, lengths), (state_f, state_b)

    def _layers(self) -> list[ConvLSTM]:
        return [self.forward_layer, self.backward_layer]

    def _is_own(self) -> bool:
        """Not so if the layers were replaced by others: then nothing may need our ops."""
        return all(isinstance(layer, ConvLSTM) for layer in self._layers())

    def _merged(self, h_f: Tensor, h_b: Tensor, lengths: list[int] | None = None) -> Tensor:
        if self.merge == "tanh":
            native = self._is_own() and all(layer.implementation == "auto" for layer in self._layers())
            y = tanh_merge(h_f, h_b, self.merge_forward, self.merge_backward, native=native)
            if lengths is not None:  # The bias alone makes something of the zeros behind a clip's end.
                steps = torch.arange(len(y), device=y.device)[:, None]
                is_inside = steps < torch.tensor(lengths, device=y.device)
                y = torch.where(is_inside[..., None, None, None], y, 0)
        else:
            y = h_f + h_b
        return y.transpose(0, 1) if self.batch_first else y

    def __prepare_scriptable__(self):
        refuse_script(self)

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}, batch_first={self.batch_first}"


class PDBConvLSTM(nn.Module):
    """Pyramid dilated bidirectional ConvLSTM (Song et al. 2018, §3.2): parallel DB-ConvLSTMs, one for each dilation.

    Args:
        dilations: one branch for each; (1, 2) in the paper.
        The others as in :class:`DBConvLSTM`.

    Shapes:
        x (N, T, Cin, H, W), or (T, N, Cin, H, W) with batch_first=False; states: one DBConvLSTM state for each branch;
        lengths as in :class:`ConvLSTM`. Returns (output, states): output like x with len(dilations) * C channels,
        branches in the order of `dilations`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        dilations: tuple[int, ...] = (1, 2),
        merge: str = "tanh",
        peephole: tuple[int, ...] | None = None,
        batch_first: bool = True,
        *,
        bias: bool = True,
        output_peephole: str = "previous",
        checkpoint_every: int | None = None,
        recompute_gates: bool | None = None,
        implementation: str = "auto",
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
        options |= {"recompute_gates": recompute_gates, "implementation": implementation}
        options |= {"device": device, "dtype": dtype}
        self.branches = nn.ModuleList(
            DBConvLSTM(in_channels, hidden_channels, kernel_size, dilation=dilation, **options)
            for dilation in self.dilations
        )

    def reset_parameters(self) -> None:
        for branch in self.branches:
            branch.reset_parameters()

    def forward(
        self, x: Tensor, states: tuple | None = None, lengths: Tensor | list[int] | None = None
    ) -> tuple[Tensor, tuple]:
        check_sequence(type(self).__name__, x, self.in_channels, self.batch_first)
        states = unpack_states("states", states, len(self.branches), "one DBConvLSTM state for each branch")
        frames = x.transpose(0, 1) if self.batch_first else x
        pairs = [unpack_states("state", state, 2, "((h_f, c_f), (h_b, c_b))") for state in states]
        if lengths is None and self._run_in_one_op(frames, pairs):
            layers = [layer for branch in self.branches for layer in branch._layers()]
            results = pdb_convlstm(frames, layers, [state for pair in pairs for state in pair])
            outputs, states = [], []
            for branch, (h_f, state_f), (h_b, state_b) in zip(self.branches, results[::2], results[1::2]):
                outputs.append(branch._merged(h_f, h_b))
                states.append((state_f, state_b))
        else:
            rest = () if lengths is None else (unpack_lengths(type(self).__name__, lengths, frames),)
            outputs, states = zip(*(branch(x, state, *rest) for branch, state in zip(self.branches, states)))
        return torch.cat(outputs, dim=2), tuple(states)

    def _run_in_one_op(self, frames: Tensor, pairs: list) -> bool:
        layers = [layer for branch in self.branches for layer in branch._layers()]
        own = all(branch._is_own() for branch in self.branches)
        return own and runs_in_one_op(frames, layers, [state for pair in pairs for state in pair])

    def __prepare_scriptable__(self):
        refuse_script(self)

    def extra_repr(self) -> str:
        return f"dilations={self.dilations}, batch_first={self.batch_first}"
