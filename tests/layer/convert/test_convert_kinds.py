"""`convert` on kinds that are built otherwise: loops in the cell, parameters without modules, modules without a use."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import pdb_ext
from helpers.convlstms import (
    ConvLSTMCell,
    H,
    LoopedConvLSTM,
    NormalisableLSTMCell,
    OneParameterLSTMCell,
    ParametersLSTMCell,
    ScalarBiasLSTMCell,
    W,
    assert_converts,
    frame,
    op_at_any_size,
    randn,
)


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


PEEPHOLES = {"parameters": nn.Parameter, "tensors": lambda weight: weight.double()}


def looped(peepholes="parameters", batch_first=False, length=None):
    return LoopedConvLSTM(3, 4, (H, W), PEEPHOLES[peepholes], batch_first, length)


def state():
    return frame(4), frame(4)


@pytest.mark.parametrize("peepholes", PEEPHOLES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_cell_with_its_loop(peepholes, batch_first):
    x = randn(2, 3, 3, H, W) if batch_first else randn(3, 2, 3, H, W)
    assert assert_converts(looped(peepholes, batch_first), x).replaced == ("",)


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("said", [{}, {"seq_len": 2}], ids=["nothing said", "two steps"])
def test_the_steps_of_a_loop(length, said):
    layer = pdb_ext.convert(looped(length=length).double(), strict=True)
    for steps in (3, 5):
        x = randn(steps, 2, 3, H, W)
        with pdb_ext.record_calls() as calls:
            ours = layer(x, state(), **said)
        assert calls and len(ours[0]) == said.get("seq_len", length or steps)
    layer.length = 2
    assert len(layer(x)[0]) == 2
    with pytest.raises(IndexError):
        layer(x, seq_len=6)


@pytest.mark.parametrize("length", [None, 3])
def test_a_loop_without_x_and_its_gradients(length):
    layer, given = looped(length=length).double(), state()
    said = {} if length else {"seq_len": 3}

    def run():
        outputs, (h, c) = layer(None, given, **said)
        return outputs, h, c, *torch.autograd.grad((outputs * h).sum() + c.sum(), [*given, *layer.parameters()])

    expected = run()
    pdb_ext.convert(layer, strict=True)
    with pdb_ext.record_calls() as calls:
        ours = run()
    assert calls
    torch.testing.assert_close(ours, expected)


class Doubling(LoopedConvLSTM):
    def forward(self, inputs=None, states=None, seq_len=None):
        outputs, state = super().forward(inputs, states, seq_len)
        return 2 * outputs, state


class FeedingBack(LoopedConvLSTM):
    """The cell state is damped between the steps, where nobody sees it."""

    def forward(self, inputs, states=None, seq_len=None):
        outputs = []
        for x in inputs:
            (h,), (last, c) = super().forward(x[None], states, 1)
            states = last, 0.5 * c
            outputs.append(h)
        return torch.stack(outputs), states


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_peepholes_that_are_no_parameters_keep_their_dtype(dtype):
    """The module's dtype changes without them: they count as before where they are narrower, and fail as before."""
    layer = LoopedConvLSTM(3, 4, (H, W), lambda weight: weight)
    pdb_ext.convert(layer, strict=True).to(dtype)
    x = torch.randn(3, 2, 3, H, W, dtype=dtype)
    try:
        expected = LoopedConvLSTM.forward(layer, x)
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as found:
            layer(x)
        assert str(found.value) == str(error)
    else:
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", [Doubling, FeedingBack])
def test_a_loop_that_does_something_else_is_left(kind):
    _, report = pdb_ext.convert(kind(3, 4, (8, 9), nn.Parameter), return_report=True)
    assert report.replaced == () and "differ" in report.left[""]


@pytest.mark.parametrize("make", [ParametersLSTMCell, OneParameterLSTMCell, ScalarBiasLSTMCell])
@pytest.mark.parametrize("in_channels", [3, 4])
def test_cells_of_parameters(make, in_channels):
    given = [frame(in_channels), *state()] if make is ParametersLSTMCell else [frame(in_channels), state()]
    assert assert_converts(make(in_channels, 4), *given).replaced == ("",)


def test_a_bias_that_is_no_parameter_gets_its_gradient():
    cell, x, given = ScalarBiasLSTMCell(3, 4), torch.randn(2, 3, H, W), tuple(torch.randn(2, 2, 4, H, W))
    cell(x, given)[0].sum().backward()
    expected, cell.bias.grad = cell.bias.grad, None
    pdb_ext.convert(cell, strict=True)
    cell(x, given)[0].sum().backward()
    torch.testing.assert_close(cell.bias.grad, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: setattr(cell, "weight", nn.Parameter(torch.randn(16, 7, 1, 1))),
        lambda cell: parametrizations.weight_norm(cell),
        lambda cell: cell.weight.data.mul_(-1),
        lambda cell: nn.init.normal_(cell.bias),
    ],
    ids=["another kernel", "weight norm", "data", "in place"],
)
def test_parameters_changed_afterwards_are_those_that_count(change):
    cell, x, given = OneParameterLSTMCell(3, 4), torch.randn(2, 3, H, W), tuple(torch.randn(2, 2, 4, H, W))
    pdb_ext.convert(cell, strict=True)
    with torch.no_grad():
        cell(x, given)
        change(cell)

        try:
            expected = OneParameterLSTMCell.forward(cell, x, given)
        except RuntimeError as error:
            with pytest.raises(RuntimeError) as found:
                cell(x, given)
            assert str(found.value) == str(error)
        else:
            torch.testing.assert_close(cell(x, given), expected)


def test_what_a_cell_does_not_use_does_not_matter_until_it_does():
    x, given = frame(), state()
    cell = NormalisableLSTMCell(3, 4, (3, 3), True)
    assert assert_converts(cell, x, given).replaced == ("",)
    cell.normalise = True
    with pdb_ext.record_calls() as calls:
        cell(x, given)
    assert not calls
    _, report = pdb_ext.convert(NormalisableLSTMCell(3, 4, (3, 3), True, normalise=True), return_report=True)
    assert report.replaced == () and "it uses the unknown parameter or buffer norm_c" in report.left[""]


class KeepsItsState(ConvLSTMCell):
    """Its caller gives no state: that of the first call's size lies in the cell and goes on from call to call."""

    state = None

    def begin(self, x):
        if self.state is None:
            self.state = self.init_hidden(len(x), x.shape[-2:])
        return self.state

    def go_on(self, x):
        self.state = self(x, self.begin(x))
        return self.state[0]


def test_a_state_that_the_cell_keeps():
    x, cell = randn(3, 2, 3, H, W), KeepsItsState(3, 4, (3, 3), True).double()
    expected = [cell.go_on(one) for one in x]
    cell.state = None
    pdb_ext.convert(cell, strict=True)
    assert cell.state is None
    with pdb_ext.record_calls() as calls:
        found = [cell.go_on(one) for one in x]
    torch.testing.assert_close(found, expected)
    assert len(calls) == 3
    with pytest.raises(RuntimeError):
        cell.go_on(x[0][:1])
