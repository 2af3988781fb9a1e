"""What the cell of a layer does otherwise than the native op's: options, parameters of norms, masks of dropout."""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from pdb_ext.checks import ACTIVATIONS, NORMS, PADDING_MODES, check_choice, check_groups
from pdb_ext.reference import CellOptions

NAMES = ("padding_mode", "activation", "recurrent_activation", "norm", "num_groups")
TENSORS = ("norm_weight", "norm_bias")
_DEFAULTS = tuple(getattr(CellOptions(), name) for name in NAMES)


class HasCellOptions(nn.Module):
    """What ConvLSTM and ConvLSTMCell share: the fields of `CellOptions` but for the mask, as attributes."""

    # Objects that were pickled before these attributes existed have these.
    padding_mode, activation, recurrent_activation, norm, num_groups = _DEFAULTS

    def _set_cell_options(self, widths: tuple[int, ...], **options: str | int | None) -> None:
        """widths: C of each layer."""
        for name, choices in (
            ("padding_mode", PADDING_MODES), ("activation", ACTIVATIONS), ("recurrent_activation", ACTIVATIONS),
            ("norm", NORMS),
        ):  # fmt: skip
            check_choice("ConvLSTM: " + name, options[name], choices)
        for C in widths:
            check_groups(options["num_groups"], options["norm"], C)
        for name, value in options.items():
            setattr(self, name, value)

    def _register_norm(self, suffix: str, C: int, factory: dict) -> None:
        """norm_weight and norm_bias, each (4C,); None without norm."""
        for name in TENSORS:
            parameter = None if self.norm is None else nn.Parameter(torch.empty(4 * C, **factory))
            self.register_parameter(name + suffix, parameter)

    def _reset_norm(self, suffix: str) -> None:
        if self.norm is not None:
            nn.init.ones_(getattr(self, "norm_weight" + suffix))
            nn.init.zeros_(getattr(self, "norm_bias" + suffix))

    def cell_options(self, suffix: str = "") -> dict:
        """Those arguments of :func:`pdb_ext.convlstm` that are not the native op's; suffix: of the parameters."""
        values = (self.padding_mode, self.activation, self.recurrent_activation, self.norm, self.num_groups)
        if values == _DEFAULTS:
            return {}
        options = {name: value for name, value, default in zip(NAMES, values, _DEFAULTS) if value != default}
        if self.norm is not None:
            options |= {name: getattr(self, name + suffix) for name in TENSORS}
        return options

    def _scripted_options(self, recurrent_mask: Tensor | None) -> CellOptions:
        """For `torch.jit.script`."""
        return CellOptions(
            self.padding_mode, self.activation, self.recurrent_activation, self.norm, self.num_groups,
            self.norm_weight, self.norm_bias, recurrent_mask,
        )  # fmt: skip

    def _cell_repr(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.cell_options().items() if name in NAMES)


def draw_mask(x: Tensor, C: int, p: float) -> Tensor | None:
    """The mask of a dropout on the states of one sequence, (N, C, H, W): 0 with probability p, or 1 / (1 - p).

    x: (T, N, Cin, H, W). None for p = 0.
    """
    if p == 0:
        return None
    return dropout(torch.ones([x.shape[1], C, x.shape[3], x.shape[4]], dtype=x.dtype, device=x.device), p)
