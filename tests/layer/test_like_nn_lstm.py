"""The meanings of torch.nn.LSTM and LSTMCell: these are a ConvLSTM with a window of one pixel on a picture of one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pdb_ext import ConvLSTM, ConvLSTMCell

SHAPES = pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 1},
        {"num_layers": 3},
        {"num_layers": 1, "bidirectional": True},
        {"num_layers": 3, "bidirectional": True},
        {"num_layers": 2, "bias": False, "batch_first": True},
    ],
    ids=lambda options: "-".join(f"{name}_{value}" for name, value in options.items()),
)


def convlstm_like(lstm: nn.LSTM) -> ConvLSTM:
    """A ConvLSTM with the weights of `lstm`, whose rows are the gates i, f, g, o and which has two biases."""
    layer = ConvLSTM(
        lstm.input_size, lstm.hidden_size, 1, lstm.num_layers, bidirectional=lstm.bidirectional, bias=lstm.bias,
        batch_first=lstm.batch_first, dtype=lstm.weight_ih_l0.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for i in range(lstm.num_layers):
            for way in ("", "_reverse") if lstm.bidirectional else ("",):
                suffix = (f"_l{i}" if i else "") + way
                for name, theirs in (("weight_x", "weight_ih"), ("weight_h", "weight_hh")):
                    weight = _in_our_order(getattr(lstm, f"{theirs}_l{i}{way}"))
                    getattr(layer, name + suffix).copy_(weight[..., None, None])
                if lstm.bias:
                    bias = getattr(lstm, f"bias_ih_l{i}{way}") + getattr(lstm, f"bias_hh_l{i}{way}")
                    getattr(layer, "bias" + suffix).copy_(_in_our_order(bias))
    return layer


def _in_our_order(rows: Tensor) -> Tensor:
    i, f, g, o = rows.chunk(4)
    return torch.cat([i, f, o, g])


def as_image(tensor: Tensor) -> Tensor:
    return tensor[..., None, None]


@SHAPES
def test_is_nn_lstm_on_one_pixel(options):
    lstm = nn.LSTM(5, 4, **options).double()
    layer = convlstm_like(lstm)
    directions = 2 if lstm.bidirectional else 1
    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    N = 6 if lstm.batch_first else 3
    state = torch.randn(2, lstm.num_layers * directions, N, 4, dtype=torch.float64).unbind()
    for hx in (None, state):
        expected = lstm(x, hx)
        found = layer(as_image(x), None if hx is None else tuple(as_image(part) for part in hx))
        torch.testing.assert_close(found[0], as_image(expected[0]))
        for part, theirs in zip(found[1], expected[1]):
            # A single layer in one direction has no axis for layers unless it was given one.
            has_layers = lstm.num_layers * directions > 1 or hx is not None
            torch.testing.assert_close(part, as_image(theirs if has_layers else theirs[0]))
        (ours,) = torch.autograd.grad(found[0].square().sum() + found[1][1].sum(), x)
        (theirs,) = torch.autograd.grad(expected[0].square().sum() + expected[1][1].sum(), x)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_is_nn_lstm_of_a_packed_sequence(bidirectional):
    lengths = torch.tensor([3, 5, 1, 5])
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=True).double()
    layer, x = convlstm_like(lstm), torch.randn(4, 6, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, state = lstm(packed)
    expected, _ = pad_packed_sequence(expected, batch_first=True, total_length=6)
    output, end = layer(as_image(x), lengths=lengths)
    torch.testing.assert_close(output, as_image(expected))
    torch.testing.assert_close(end, tuple(as_image(part) for part in state))


def test_is_nn_lstm_cell_on_one_pixel():
    theirs = nn.LSTMCell(3, 4).double()
    cell = ConvLSTMCell(3, 4, 1).double()
    with torch.no_grad():
        for name, rows in (
            ("weight_x", as_image(theirs.weight_ih)), ("weight_h", as_image(theirs.weight_hh)),
            ("bias", theirs.bias_ih + theirs.bias_hh),
        ):  # fmt: skip
            getattr(cell, name).copy_(_in_our_order(rows))
    x, state = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, 4, dtype=torch.float64).unbind()
    for take in (lambda tensor: tensor, lambda tensor: tensor[0]):  # a batch, and one alone
        for hx in (None, tuple(take(part) for part in state)):
            found = cell(as_image(take(x)), None if hx is None else tuple(as_image(part) for part in hx))
            torch.testing.assert_close(found, tuple(as_image(part) for part in theirs(take(x), hx)))
