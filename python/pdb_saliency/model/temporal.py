"""The temporal module of the model: the paper's PDB-ConvLSTM and the baselines of Table 5.

Every module takes x (N, T, Cin, h, w) and returns (output (N, T, C, h, w), state), as the layers of `pdb_ext` do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdb_ext import ConvLSTM, DBConvLSTM, PDBConvLSTM

# The kinds of temporal module ("none" and `options.TEMPORAL_KINDS`), with their names in Table 5.
TEMPORAL_MODULES = {
    "none": "no temporal module",
    "fc_lstm": "FC-LSTM",
    "convlstm": "ConvLSTM",
    "b_convlstm": "B-ConvLSTM",
    "db_convlstm": "DB-ConvLSTM",
    "pdb_convlstm": "PDB-ConvLSTM",
}


class NoTemporal(nn.Module):
    """Each frame on its own: the spatial part of the model alone (step one of the paper's training; Table 4)."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


class FCLSTM(nn.Module):
    """Fully connected LSTM over the frames (Table 5, "FC-LSTM").

    The paper does not define it. Fully connected gates over the whole feature map are out of reach (32 channels on
    60x60 pixels: 2.7e10 weights per gate), so the map is average-pooled to 8x8 cells, flattened, run through an
    `nn.LSTM` whose hidden state has C channels on the same cells, and upsampled again (bilinear, corners aligned). With
    C = 32 these are the 2048 units of the FC-LSTM of Shi et al. (2015), and like the paper's it loses spatial details.
    """

    CELLS = 8

    def __init__(self, in_channels: int, hidden_channels: int):
        super().__init__()
        self.hidden_channels = hidden_channels
        self.lstm = nn.LSTM(in_channels * self.CELLS**2, hidden_channels * self.CELLS**2, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        pooled = F.adaptive_avg_pool2d(x.flatten(0, 1), self.CELLS)
        output, state = self.lstm(pooled.flatten(1).unflatten(0, x.shape[:2]), state)
        cells = output.flatten(0, 1).unflatten(1, (self.hidden_channels, self.CELLS, self.CELLS))
        upsampled = F.interpolate(cells, size=x.shape[-2:], mode="bilinear", align_corners=True)
        return upsampled.unflatten(0, x.shape[:2]), state


class BConvLSTM(nn.Module):
    """Bidirectional ConvLSTM (Fig. 3a): unlike DB-ConvLSTM, both layers read x.

    merge "tanh": Y_t = tanh(W^f * H^f_t + W^b * H^b_t), Eq. 5 (with its t-1 read as t, as in `pdb_ext.DBConvLSTM`).
    merge "sum": Y_t = H^f_t + H^b_t, as the released model merges.
    """

    def __init__(self, in_channels: int, hidden_channels: int, *, merge: str, peephole: tuple[int, ...] | None = None):
        super().__init__()
        options = {"peephole": peephole, "batch_first": True}
        self.forward_layer = ConvLSTM(in_channels, hidden_channels, **options)
        self.backward_layer = ConvLSTM(in_channels, hidden_channels, reverse=True, **options)
        self.merge = merge
        if merge == "tanh":
            self.merge_forward = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1)
            self.merge_backward = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple]:
        forward, forward_state = self.forward_layer(x)
        backward, backward_state = self.backward_layer(x)
        states = (forward_state, backward_state)
        if self.merge == "sum":
            return forward + backward, states
        merged = self.merge_forward(forward.flatten(0, 1)) + self.merge_backward(backward.flatten(0, 1))
        return torch.tanh(merged).unflatten(0, x.shape[:2]), states


def build_temporal(
    kind: str,
    in_channels: int,
    hidden_channels: int,
    *,
    dilations: tuple[int, ...],
    merge: str,
    peephole: tuple[int, ...] | None,
) -> tuple[nn.Module, int]:
    """The temporal module `kind` (a key of TEMPORAL_MODULES) and the number of its output channels.

    dilations: of the branches of "pdb_convlstm"; all other kinds have dilation 1, as in Table 5.
    merge, peephole: as in `pdb_ext.DBConvLSTM`; for kinds with two directions, and for those with a ConvLSTM.
    """
    if kind == "none":
        return NoTemporal(), in_channels
    if kind == "fc_lstm":
        return FCLSTM(in_channels, hidden_channels), hidden_channels
    if kind == "convlstm":
        return ConvLSTM(in_channels, hidden_channels, peephole=peephole, batch_first=True), hidden_channels
    if kind == "b_convlstm":
        return BConvLSTM(in_channels, hidden_channels, merge=merge, peephole=peephole), hidden_channels
    if kind == "db_convlstm":
        return DBConvLSTM(in_channels, hidden_channels, merge=merge, peephole=peephole), hidden_channels
    module = PDBConvLSTM(in_channels, hidden_channels, dilations=dilations, merge=merge, peephole=peephole)
    return module, len(dilations) * hidden_channels


def step(module: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The module's output for the next frames x (N, T, Cin, h, w) without knowledge of the future, and the new state.

    state: what the previous call returned, None for the first. Forward layers continue from their state. A backward
    layer starts anew at every frame and sees that frame alone, as it does at the last frame of a clip. So the output
    for a frame is that for the last frame of a clip that begins with the video. T steps of one frame equal one step of
    T frames.
    """
    if isinstance(module, PDBConvLSTM):
        outputs, states = zip(
            *(step(branch, x, s) for branch, s in zip(module.branches, state or [None] * len(module.branches)))
        )
        return torch.cat(outputs, dim=2), states
    if isinstance(module, (DBConvLSTM, BConvLSTM)):
        return _step_bidirectional(module, x, state)
    return module(x) if isinstance(module, NoTemporal) else module(x, state)


def _step_bidirectional(module: DBConvLSTM | BConvLSTM, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    frames = x.transpose(0, 1)  # The layers of DBConvLSTM are time-major, those of BConvLSTM are not.
    forward, state = _time_major(module.forward_layer, frames, state)
    read = forward if isinstance(module, DBConvLSTM) else frames
    backward, _ = _time_major(module.backward_layer, read.flatten(0, 1).unsqueeze(0), None)  # A clip per frame.
    forward, backward = forward.flatten(0, 1), backward[0]
    if module.merge == "tanh":
        output = torch.tanh(module.merge_forward(forward) + module.merge_backward(backward))
    else:
        output = forward + backward
    return output.unflatten(0, frames.shape[:2]).transpose(0, 1), state


def _time_major(layer: ConvLSTM, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    """Runs the layer on time-major x (T, N, Cin, h, w), whether or not the layer is `batch_first`."""
    if not layer.batch_first:
        return layer(x, state)
    output, state = layer(x.transpose(0, 1), state)
    return output.transpose(0, 1), state
