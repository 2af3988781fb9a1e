"""`convert` runs models that draw random numbers; those that the program draws afterwards are as if it had not."""

import random

import pytest
import torch
from torch import nn

import pdb_ext
from helpers.convlstms import ConvLSTMCell


def generator_of(library):
    """How it is seeded, and how a number is drawn."""
    if library == "numpy":
        numpy_random = pytest.importorskip("numpy.random")
        return numpy_random.seed, numpy_random.random
    return (random.seed, random.random) if library == "random" else (torch.manual_seed, lambda: float(torch.rand(())))


class ScheduledSampling(nn.Module):
    """Reads each frame or, by chance, what it has said before."""

    def __init__(self, draw):
        super().__init__()
        self.cell, self.draw = ConvLSTMCell(3, 3, (3, 3), True), draw

    def forward(self, frames):
        h = c = torch.zeros_like(frames[0])
        for x in frames:
            h, c = self.cell(x if self.draw() < 0.5 else h, (h, c))
        return h


class DrawingCell(ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        self.draw()
        return super().forward(input_tensor, cur_state)


def drawing_cell(draw):
    cell = DrawingCell(3, 3, (3, 3), True)
    cell.draw = draw
    return cell


@pytest.mark.parametrize("library", ["torch", "random", "numpy"])
@pytest.mark.parametrize("make", [ScheduledSampling, drawing_cell])
def test_random_numbers_go_on_as_if_nothing_had_run(library, make):
    seed, draw = generator_of(library)
    drawn = []

    def noted():
        drawn.append(draw())
        return drawn[-1]

    model = make(noted)
    seed(0)
    expected = [draw() for _ in range(3)]
    seed(0)
    pdb_ext.convert(model, strict=True)
    assert drawn
    assert [draw() for _ in range(3)] == expected
