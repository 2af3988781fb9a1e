"""The baselines of Table 5; `pdb_ext` has the tests of the paper's own module."""

from __future__ import annotations

import torch

from pdb_ext import ConvLSTM
from pdb_saliency.model.temporal import FCLSTM, BConvLSTM


def test_both_layers_of_b_convlstm_read_the_input():
    """The backward layer by hand: flip the frames, run its weights forward in time, flip the result."""
    torch.manual_seed(0)
    module = BConvLSTM(3, 2, merge="tanh").double()
    x = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    flipped = ConvLSTM(3, 2, batch_first=True).double()
    flipped.load_state_dict(module.backward_layer.state_dict())
    forward, backward = module.forward_layer(x)[0], flipped(x.flip(1))[0].flip(1)
    merged = module.merge_forward(forward.flatten(0, 1)) + module.merge_backward(backward.flatten(0, 1))
    torch.testing.assert_close(module(x)[0], torch.tanh(merged).view(2, 4, 2, 5, 6))
    module.merge = "sum"
    torch.testing.assert_close(module(x)[0], forward + backward)


def test_fc_lstm_keeps_coarse_position_and_loses_detail():
    """It sees 16x16 pixels as 8x8 cells: swapping pixels within a cell changes nothing, swapping cells does."""
    module = FCLSTM(2, 3).double()
    x = torch.randn(1, 2, 2, 16, 16, dtype=torch.float64)
    within, across = x.clone(), x.clone()
    within[..., 4:6, 4:6] = x[..., 4:6, 4:6].flip(-1)
    across[..., 4:6, 4:8] = x[..., 4:6, 4:8].roll(2, dims=-1)
    torch.testing.assert_close(module(within)[0], module(x)[0])
    assert not torch.allclose(module(across)[0], module(x)[0])
    assert module(x)[0].shape == (1, 2, 3, 16, 16)
