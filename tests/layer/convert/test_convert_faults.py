"""Models that `convert` must not break: their helper methods, their first states, their own stacks, their wrappers."""

import pytest
import torch
from torch import nn

import pdb_ext
from helpers.convlstms import (
    ConvLSTMCell,
    H,
    PeepholeConvLSTMCell,
    RepeatedConvLSTM,
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


class Looping(nn.Module):
    """A caller that asks its cell for the first state and then loops over the frames itself.

    Its head has a parameter of its own, for which only the cell can be replaced, not the loop.
    """

    def __init__(self, cell, start):
        super().__init__()
        self.cell, self.start = cell, start
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        h, c = self.start(self.cell, x[0])
        outputs = []
        for frame_of_x in x:
            h, c = self.step(frame_of_x, h, c)
            outputs.append(self.head(h))
        return torch.stack(outputs), h, c

    def step(self, x, h, c):
        return self.cell(x, [h, c])


def sequence(steps=3):
    return randn(steps, 2, 3, H, W)


# Helper methods of the cell.


class OfFrame(ConvLSTMCell):
    def init_hidden(self, x):
        return x.new_full((len(x), self.hidden_dim, *x.shape[2:]), 0.1), x.mean(1, keepdim=True).repeat(1, 4, 1, 1)


class OnDevice(ConvLSTMCell):
    size = H, W

    def init_hidden(self, batch, device):
        zeros = torch.zeros(batch, self.hidden_dim, *self.size, device=device, dtype=self.conv.weight.dtype)
        return zeros, zeros.clone()


class OnWhatIsSaid(OnDevice):
    def init_hidden(self, batch, cuda, device=None):
        return super().init_hidden(batch, torch.device("cuda") if cuda else device)


class WithMask(ConvLSTMCell):
    def init_hidden(self, batch_size, image_size, mask=None):
        h, c = super().init_hidden(batch_size, image_size)
        return (h, c) if mask is None else (h + mask, c - mask)


CALLS_OF_HELPERS = {
    "size": (ConvLSTMCell, lambda cell, x: cell.init_hidden(len(x), x.shape[-2:])),
    "names": (ConvLSTMCell, lambda cell, x: cell.init_hidden(image_size=(H, W), batch_size=len(x))),
    "frame": (OfFrame, lambda cell, x: cell.init_hidden(x)),
    "device": (OnDevice, lambda cell, x: cell.init_hidden(len(x), x.device)),
    "cuda and device": (OnWhatIsSaid, lambda cell, x: cell.init_hidden(len(x), False, device=x.device)),
    "mask": (WithMask, lambda cell, x: cell.init_hidden(len(x), (H, W), mask=x[:, :1].sign())),
}


@pytest.mark.parametrize("call", CALLS_OF_HELPERS)
def test_helpers_of_any_signature_stay(call):
    kind, start = CALLS_OF_HELPERS[call]
    report = assert_converts(Looping(kind(3, 4, (3, 3), True), start), sequence(), ops=3)
    assert report.replaced == ("cell",) and not report.left


def test_a_helper_that_is_told_the_width_and_the_shape():
    class LoopingOverThree(Looping):
        def step(self, x, h, c):
            return self.cell(x, h, c)

    def start(cell, x):
        return cell.init_hidden(len(x), 4, x.shape[-2:])

    report = assert_converts(LoopingOverThree(PeepholeConvLSTMCell(3, 4, 3), start), sequence(), ops=3)
    assert report.replaced == ("cell",)


class Rich(ConvLSTMCell):
    """Has more than a forward, and other methods that use it."""

    kept = "of the class"

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.history, self.scale = [], 0.5

    @property
    def width(self):
        return self.hidden_dim

    @classmethod
    def of_width(cls, width):
        return cls(3, width, (3, 3), True)

    @staticmethod
    def doubled(value):
        return 2 * value

    def predict(self, x):
        h, c = self(x, self.init_hidden(len(x), x.shape[-2:]))
        self.history.append(h)
        return self.doubled(self.scale * h)

    def extra_repr(self):
        return f"width {self.width}"


def test_methods_and_attributes_of_a_subclass_stay():
    x, cell = frame(), Rich.of_width(4).double()
    expected, shown = cell.predict(x), repr(cell)
    assert pdb_ext.convert(cell, strict=True) is cell and type(cell) is Rich
    with pdb_ext.record_calls() as calls:
        torch.testing.assert_close(cell.predict(x), expected)
    assert calls and len(cell.history) == 2
    assert (cell.width, cell.kept, cell.of_width(5).width, repr(cell)) == (4, "of the class", 5, shown)
    cell.scale = 1.0
    torch.testing.assert_close(cell.predict(x), 2 * expected)


def test_a_method_that_goes_around_the_call():
    """Some call cell.forward, and some their class's forward, by hand."""

    class Direct(ConvLSTMCell):
        def twice(self, x, state):
            return self.forward(x, super().forward(x, state))

    cell, x, state = Direct(3, 4, (3, 3), True).double(), frame(), (frame(4), frame(4))
    expected = cell.twice(x, state)
    pdb_ext.convert(cell, strict=True)
    with pdb_ext.record_calls() as calls:
        torch.testing.assert_close(cell.twice(x, state), expected)
    assert len(calls) == 1  # of cell.forward: the class's is the model's own


# First states that are no zeros, in callers that loop over the cells themselves.


class Orthogonal(ConvLSTMCell):
    def init_hidden(self, batch_size, image_size):
        generator = torch.Generator().manual_seed(1)
        states = super().init_hidden(batch_size, image_size)
        return tuple(nn.init.orthogonal_(state, generator=generator) for state in states)


class EncoderOfStates(nn.Module):
    """Makes the first states from x, runs two cells over the frames, and goes on from what it has said itself."""

    def __init__(self, steps_ahead=2):
        super().__init__()
        self.steps_ahead = steps_ahead
        self.first, self.second = ConvLSTMCell(3, 4, (3, 3), True), ConvLSTMCell(4, 4, (5, 5), True)
        self.states, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        h1, c1, h2, c2 = self.states(x[0]).tanh().chunk(4, dim=1)
        outputs = []
        for t in range(len(x) + self.steps_ahead):
            h1, c1 = self.first(x[t] if t < len(x) else outputs[-1], (h1, c1))
            h2, c2 = self.second(h1, (h2, c2))
            outputs.append(self.head(h2))
        return torch.stack(outputs)


def test_orthogonal_states():
    def start(cell, x):
        return cell.init_hidden(len(x), x.shape[-2:])

    model = Looping(Orthogonal(3, 4, (3, 3), True), start).double()
    assert start(model.cell, frame())[0].abs().max() > 0.1
    assert assert_converts(model, sequence(), ops=3).replaced == ("cell",)


def test_states_made_from_x():
    assert set(assert_converts(EncoderOfStates(), sequence(), ops=10).replaced) == {"first", "second"}


def test_states_that_are_parameters_learn():
    class Learning(Looping):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.h_0, self.c_0 = (nn.Parameter(torch.randn(1, 4, 1, 1)) for _ in range(2))

        def forward(self, x):
            self.start = lambda _, one: [state.expand(len(one), 4, H, W) for state in (self.h_0, self.c_0)]
            return super().forward(x)

    assert_converts(Learning(ConvLSTMCell(3, 4, (3, 3), True), None), sequence(), ops=3)


# Stacks that are said to repeat their input and do something else.


class ReadsItsSteps(RepeatedConvLSTM):
    """The common repair: a frame for each step instead of the same one."""

    def forward(self, input):
        states, outputs = {}, []
        for step in range(self.step):
            x = self.input_of(input, step)
            for index, hidden in enumerate(self.hidden_channels):
                cell = getattr(self, f"cell{index}")
                if step == 0:
                    states[index] = cell.init_hidden(len(x), hidden, x.shape[-2:])
                states[index] = cell(x, *states[index])
                x = self.between(states[index][0])
            if step in self.effective_step:
                outputs.append(x)
        return outputs, states[len(states) - 1]

    def input_of(self, input, step):
        return input[step]

    def between(self, h):
        return h


class ReadsOnce(ReadsItsSteps):
    def input_of(self, input, step):
        return input if step == 0 else torch.zeros_like(input)


class RectifiedBetween(ReadsItsSteps):
    def input_of(self, input, step):
        return input

    def between(self, h):
        return torch.relu(h)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("kind", [ReadsItsSteps, ReadsOnce, RectifiedBetween])
def test_stacks_that_look_as_if_they_repeated_their_input(kind, used_before):
    stack = kind(3, [4, 6], 3, step=3, effective_step=[0, 2]).double()
    x = sequence() if kind is ReadsItsSteps else frame()
    if used_before:
        stack(x)
        for cell in (stack.cell0, stack.cell1):
            cell.Wci, cell.Wcf, cell.Wco = (torch.randn_like(cell.Wci) for _ in range(3))
    report = assert_converts(stack, x, ops=6)
    assert set(report.replaced) == {"cell0", "cell1"}


def test_more_frames_than_steps_and_fewer():
    stack = pdb_ext.convert(ReadsItsSteps(3, [4], 3, step=3, effective_step=[2]).double(), strict=True)
    assert torch.equal(stack(longer := sequence(5))[0][0], stack(longer[:3])[0][0])
    with pytest.raises(IndexError):
        stack(longer[:2])


class FixedShape(PeepholeConvLSTMCell):
    """What the first call has made stays, and another size is an error."""

    def init_hidden(self, batch_size, hidden, shape):
        made_before = self.Wci is not None
        states = super().init_hidden(batch_size, hidden, shape)
        if made_before:
            assert self.Wci.shape[2:] == tuple(shape), "the height or width has changed"
        return states


def test_peepholes_of_a_fixed_shape():
    stack = RepeatedConvLSTM(3, [4], 3, step=2, effective_step=[1])
    stack.cell0 = FixedShape(3, 4, 3)
    pdb_ext.convert(stack.double(), strict=True)
    x = frame()
    with pdb_ext.record_calls() as calls:
        first = stack(x)
    assert calls and stack.cell0.Wci.shape == (1, 4, H, W)
    torch.testing.assert_close(first, RepeatedConvLSTM.forward(pdb_ext.unconvert(stack), x))
    pdb_ext.convert(stack, strict=True)
    with pytest.raises((AssertionError, RuntimeError)) as before:
        RepeatedConvLSTM.forward(stack, x[..., :-1])
    with pytest.raises(before.type) as after:
        stack(x[..., :-1])
    assert str(after.value) == str(before.value)
    torch.testing.assert_close(stack(x), first)
