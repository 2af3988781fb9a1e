"""`ConvGRU`: layers of ConvGRU with the arguments and meanings of `torch.nn.GRU`."""

import torch
from torch import Tensor

from pdb_ext.reference import convgru_of_checked

from .stacked import StackedLayer
from .weights import GRU_NAMES, register_gru_weights


class ConvGRU(StackedLayer):
    """Dilated ConvGRU layers; equations and gate order as in :func:`pdb_ext.convgru`, the rest as `torch.nn.GRU`.

    Time-major like `torch.nn.GRU` unless batch_first=True.

    Args:
        in_channels: Cin.
        hidden_channels: C; or a list, one width for each layer.
        kernel_size: k, odd, or a pair (kh, kw) of odd numbers. If kh != kw the reference computes the layer.
        num_layers: layers stacked: each one after the first reads the outputs of the one before it.
        bidirectional: each layer runs in both directions of time; its output has both side by side, 2C channels.
        dropout: probability with which, in training, elements of the output of each layer but the last become zero.
        dilation: dilation of the input and the hidden convolutions.
        bias: whether the gates have a bias.
        reverse: run backward in time; outputs stay in frame order. Not together with bidirectional.
        batch_first: x and output are (N, T, C, H, W) instead of (T, N, C, H, W). States have no axis for time.
        implementation: "auto", or "reference" for PyTorch's own operators alone, see :func:`pdb_ext.convgru`.

    Parameters: `weight_x`, `weight_h` and `bias` of layer 0; those of others end in `_l1`, `_l2` ..., those of the
    second direction in `_reverse`, `_l1_reverse` ...

    Shapes:
        x (T, N, Cin, H, W) or, batch first, (N, T, Cin, H, W). hx, h_0, zeros if absent: (num_layers * directions, N,
        C, H, W), in the order layer 0, layer 0 reverse, layer 1 ...; a list of (N, C, H, W) in that order where the
        widths differ. A single layer in one direction takes and returns (N, C, H, W); given (1, N, C, H, W), it
        returns that.
        lengths (N,): the clips' numbers of frames, as in :class:`ConvLSTM`.
        Returns (output, h_n): output like x with C or 2C channels; the state of each clip's last step, which is frame
        0 backward in time.
    """

    kind, op, names = "ConvGRU", "convgru", GRU_NAMES

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
        reverse: bool = False,
        batch_first: bool = False,
        implementation: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        layers = self._set_options(
            in_channels, hidden_channels, kernel_size, num_layers, bidirectional=bidirectional, dropout=dropout,
            dilation=dilation, reverse=reverse, bias=bias, batch_first=batch_first, implementation=implementation,
        )  # fmt: skip
        for suffix, given, width, sides in layers:
            register_gru_weights(self, suffix, given, width, sides, bias, {"device": device, "dtype": dtype})
        self.reset_parameters()

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Tensor | list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        if torch.jit.is_scripting():
            return self._scripted(x, hx, lengths)
        options = {"dilation": self.dilation, "implementation": self.implementation}
        return self._run(x, hx, lengths, [options] * len(self._directions()))

    def _scripted(self, x: Tensor, hx: Tensor | None, lengths: Tensor | list[int] | None) -> tuple[Tensor, Tensor]:
        """What `torch.jit.script` compiles in place of `run_stack`."""
        assert lengths is None, "ConvGRU: torch.jit.script knows no lengths"
        output, h_n = convgru_of_checked(
            x.transpose(0, 1) if self.batch_first else x, self.weight_x, self.weight_h, self.bias, hx, self.dilation,
            self.reverse,
        )  # fmt: skip
        return output.transpose(0, 1) if self.batch_first else output, h_n
