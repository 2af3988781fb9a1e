"""`convert` on modules that run only on images of the size that their constructor was told."""

import pytest
import torch
from torch import nn

import pdb_ext
from helpers.convlstms import ConvLSTMCell, StackedConvLSTM, assert_converts, op_at_any_size, randn
from pdb_ext.convert import sequence

SIZE = 6, 7


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


class SizedCell(ConvLSTMCell):
    """Knows the image's size, and is told that of the batch alone."""

    height, width = SIZE

    def init_hidden(self, batch_size):
        return super().init_hidden(batch_size, (self.height, self.width))


class ConvLSTM(StackedConvLSTM):
    """As of 2017: the constructor is told the image's size, and the number of layers beside their widths."""

    cell = SizedCell

    def __init__(self, input_size, input_dim, hidden_dim, kernel_size, num_layers, batch_first=False, bias=True):
        super().__init__(input_dim, hidden_dim, kernel_size, batch_first, bias)
        assert num_layers == len(hidden_dim)
        for part in (self, *self.cell_list):
            part.height, part.width = input_size

    def forward(self, input_tensor, hidden_state=None):
        batch_size = input_tensor.shape[0 if self.batch_first else 1]
        return super().forward(input_tensor, hidden_state or self.init_hidden(batch_size=batch_size))

    def init_hidden(self, batch_size):
        return [cell.init_hidden(batch_size) for cell in self.cell_list]


def test_a_stack_of_2017():
    stack, x = ConvLSTM((16, 16), 8, [16], (3, 3), 1, True), randn(2, 3, 8, 16, 16)
    before = stack.double().init_hidden(2)
    assert set(assert_converts(stack, x).replaced) == {"", "cell_list.0"}
    for call in (stack.init_hidden, lambda batch_size: [stack.cell_list[0].init_hidden(batch_size=batch_size)]):
        torch.testing.assert_close(call(2), before, rtol=0, atol=0)
    with pdb_ext.record_calls() as calls:
        torch.testing.assert_close(stack(x, before), stack(x))
    assert len(calls) == 2


class SizedStack(StackedConvLSTM):
    """Its first states are always as large as SIZE; size: the attributes that say so."""

    def __init__(self, **size):
        super().__init__(3, [4], (3, 3), True)
        vars(self).update(size)

    def forward(self, input_tensor, hidden_state=None):
        zeros = input_tensor.new_zeros(len(input_tensor), 4, *SIZE)
        return super().forward(input_tensor, hidden_state or [(zeros, zeros)])


NAMES = ("input_size", "image_size", "img_size", "input_shape", "shape")
ATTRIBUTES = {name: {name: SIZE} for name in NAMES} | {
    "height and width": {"height": SIZE[0], "width": SIZE[1]}, "a list": {"img_size": list(SIZE)},
    "and another pair": {"input_size": (3, 4.0), "image_size": (0, 4), "shape": SIZE},
}  # fmt: skip


@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_attributes_that_tell_the_size_to_a_stack(attributes):
    report = assert_converts(SizedStack(**ATTRIBUTES[attributes]), randn(2, 3, 3, *SIZE))
    assert set(report.replaced) == {"", "cell_list.0"}


@pytest.mark.parametrize("attributes", [{}, {"input_size": SIZE}], ids=["not told", "too large to try"])
def test_a_stack_whose_size_is_not_known_runs_its_cells_one_by_one(monkeypatch, attributes):
    monkeypatch.setattr(sequence, "_MOST_PIXELS", SIZE[0] * SIZE[1] - 1)
    report = assert_converts(SizedStack(**attributes), randn(2, 3, 3, *SIZE), ops=3)
    assert report.replaced == ("cell_list.0",) and "could not be called with a sequence" in report.left[""]


class RefusingCell(ConvLSTMCell):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.input_size = SIZE

    def forward(self, input_tensor, cur_state):
        if input_tensor.shape[2:] != self.input_size:
            raise ValueError(f"images must be of the size {self.input_size}")
        return super().forward(input_tensor, cur_state)


class StackOfRefusing(StackedConvLSTM):
    cell = RefusingCell


def test_a_cell_that_refuses_other_sizes_and_a_stack_of_such():
    stack = StackOfRefusing(3, [4], (3, 3), True)
    assert set(assert_converts(stack, randn(2, 3, 3, *SIZE)).replaced) == {"", "cell_list.0"}
    cell, state = RefusingCell(3, 4, (3, 3), True), (randn(2, 4, *SIZE), randn(2, 4, *SIZE))
    assert assert_converts(cell, randn(2, 3, *SIZE), state).replaced == ("",)


class SizedLoop(nn.Module):
    """A cell and its loop in one."""

    def __init__(self, img_size):
        super().__init__()
        self.img_size = img_size
        self.conv = nn.Conv2d(3 + 4, 4 * 4, 3, padding=1)

    def forward(self, frames):
        h = c = frames.new_zeros(frames.shape[1], 4, *self.img_size)
        outputs = []
        for x in frames:
            i, f, o, g = self.conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h, c)


def test_a_loop_of_one_size():
    assert assert_converts(SizedLoop(SIZE), randn(3, 2, 3, *SIZE)).replaced == ("",)


class Resizing(SizedStack):
    """Images of other sizes are brought to its own."""

    def forward(self, input_tensor, hidden_state=None):
        frames = nn.functional.interpolate(input_tensor.flatten(0, 1), SIZE)
        return super().forward(frames.unflatten(0, input_tensor.shape[:2]), hidden_state)


def images(size, *first):
    return randn(*first, 3, *size)


OF_ONE_SIZE = {
    "stack": (lambda: SizedStack(input_size=SIZE), lambda size: [images(size, 2, 3)]),
    "resizing stack": (lambda: Resizing(input_size=SIZE), lambda size: [images(size, 2, 3)]),
    "stack of 2017": (lambda: ConvLSTM(SIZE, 3, [4], (3, 3), 1, True), lambda size: [images(size, 2, 3)]),
    "cell": (
        lambda: RefusingCell(3, 4, (3, 3), True),
        lambda size: [images(size, 2), (randn(2, 4, *size), randn(2, 4, *size))],
    ),
    "stack of cells": (lambda: StackOfRefusing(3, [4], (3, 3), True), lambda size: [images(size, 2, 3)]),
    "loop": (lambda: SizedLoop(SIZE), lambda size: [images(size, 3, 2)]),
}


@pytest.mark.parametrize("kind", OF_ONE_SIZE)
@pytest.mark.parametrize("size", [(7, 6), (9, 8)])
def test_other_sizes_are_as_before(kind, size):
    make, arguments_of = OF_ONE_SIZE[kind]
    module = pdb_ext.convert(make().double(), strict=True)
    assert "forward" in vars(module)
    arguments = arguments_of(size)
    try:
        expected = type(module).forward(module, *arguments)
    except (RuntimeError, ValueError) as error:
        with pytest.raises(type(error)) as found:
            module(*arguments)
        assert str(found.value) == str(error)
    else:
        torch.testing.assert_close(module(*arguments), expected)


def test_a_stack_that_knows_a_size_and_takes_every_size():
    class Knowing(StackedConvLSTM):
        input_size = SIZE

    stack = pdb_ext.convert(Knowing(3, [4], (3, 3), True), strict=True)
    for size in (SIZE, (9, 8)):
        with pdb_ext.record_calls() as calls:
            stack(torch.randn(2, 3, 3, *size))
        assert len(calls) == 1
