"""`convert` finds out in which order a cell has its gates, for every order and whatever the weights are."""

import itertools

import pytest
import torch
from torch import nn

import pdb_ext
from helpers.convlstms import assert_converts, frame, op_at_any_size


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


class OrderedLSTMCell(nn.Module):
    """One convolution, whose outputs are the gates in the order that is given."""

    def __init__(self, in_channels, channels, order):
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(in_channels + channels, 4 * channels, 3, padding=1)

    def forward(self, x, state):
        h, c = state
        gates = dict(zip(self.order, self.conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)))
        i, f, o = (torch.sigmoid(gates[name]) for name in "ifo")
        c = f * c + i * torch.tanh(gates["g"])
        h = o * torch.tanh(c)
        return h, (h, c)


@pytest.mark.parametrize("order", list(map("".join, itertools.permutations("ifog"))))
def test_every_order_of_the_gates(order):
    assert assert_converts(OrderedLSTMCell(3, 4, order), frame(), (frame(4), frame(4))).replaced == ("",)


@pytest.mark.parametrize("std", [0.0, 1e-5])
def test_weights_that_hide_the_order(std):
    """By the weights that the cell has when it is converted any order fits: those that are loaded later tell."""
    original, cell = OrderedLSTMCell(3, 4, "ifgo").double(), OrderedLSTMCell(3, 4, "ifgo")
    nn.init.normal_(cell.conv.weight, std=std)
    nn.init.zeros_(cell.conv.bias)
    pdb_ext.convert(cell, strict=True).double()  # in single precision, which sees no gate in such weights
    nn.init.normal_(original.conv.bias)
    cell.load_state_dict(original.state_dict())
    x, state = frame(), (frame(4), frame(4))
    with pdb_ext.record_calls() as calls:
        ours = cell(x, state)
    assert len(calls) == 1
    torch.testing.assert_close(ours, original(x, state))
