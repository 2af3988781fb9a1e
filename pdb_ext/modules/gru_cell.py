"""`ConvGRUCell`: one step, with the arguments and meanings of `torch.nn.GRUCell`."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from pdb_ext.checks import (
    check_flags,
    check_frame,
    check_implementation,
    check_sizes,
    check_unbatched_hidden,
    unpack_kernel_size,
)
from pdb_ext.convgru import convgru
from pdb_ext.ops import record_call
from pdb_ext.reference import convgru_of_checked

from .weights import GRU_NAMES, GRUWeights, check_scriptable, register_gru_weights, reset_weights, weights_of


class ConvGRUCell(nn.Module):
    """One step of a dilated ConvGRU; equations and gate order as in :func:`pdb_ext.convgru`.

    The parameters have the names and shapes of a single :class:`ConvGRU`: state_dicts fit either. Over frames that
    are all there, a ConvGRU is faster than a loop of cells.

    Args:
        in_channels, hidden_channels, kernel_size, bias, dilation, implementation: as in :class:`ConvGRU`.

    Shapes:
        x (N, Cin, H, W); hx, h, (N, C, H, W), zeros if absent. Returns h (N, C, H, W).
        Without a batch: x (Cin, H, W) and h (C, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        *,
        dilation: int = 1,
        implementation: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_sizes("ConvGRUCell", in_channels=in_channels, hidden_channels=hidden_channels, dilation=dilation)
        sides = unpack_kernel_size(kernel_size, "ConvGRUCell")
        check_flags("ConvGRUCell", bias=bias)
        check_implementation(implementation, "convgru")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = sides[0] if sides[0] == sides[1] else sides
        self.dilation = dilation
        self.implementation = implementation
        factory = {"device": device, "dtype": dtype}
        register_gru_weights(self, "", in_channels, hidden_channels, sides, bias, factory)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As :meth:`ConvGRU.reset_parameters`."""
        reset_weights(weights_of(self, "", GRU_NAMES))

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(x, hx)
        options = {"dilation": self.dilation, "implementation": self.implementation}
        return run_gru_cell(x, hx, weights_of(self, "", GRU_NAMES), name=type(self).__name__, options=options)

    def _scripted(self, x: Tensor, hx: Tensor | None) -> Tensor:
        """What `torch.jit.script` compiles in place of `run_gru_cell`."""
        assert x.dim() == 4, "ConvGRUCell: under torch.jit.script x must have shape (N, Cin, H, W)"
        _, h = convgru_of_checked(x[None], self.weight_x, self.weight_h, self.bias, hx, self.dilation, False)
        return h

    def __prepare_scriptable__(self):
        check_scriptable(self)
        return self

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, dilation={self.dilation}"
        if self.bias is None:
            text += ", bias=False"
        return text + (f", implementation={self.implementation!r}" if self.implementation != "auto" else "")


def run_gru_cell(x: Tensor, hx: Tensor | None, weights: GRUWeights, *, name: str, options: dict) -> Tensor:
    """What :class:`ConvGRUCell` returns. name: the cell in messages. options: those of `pdb_ext.convgru`."""
    if isinstance(x, Proxy):
        return record_call(run_gru_cell, x, hx, weights, name=name, options=options)
    check_frame(name, x, weights[0].shape[1])
    if x.dim() == 4:
        return convgru(x[None], *weights, hx, **options)[1]
    check_unbatched_hidden(name, hx)
    return convgru(x[None, None], *weights, None if hx is None else hx[None], **options)[1][0]
