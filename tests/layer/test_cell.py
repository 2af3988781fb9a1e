"""ConvLSTMCell: one step of a ConvLSTM, whose weights it takes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pdb_ext import ConvLSTM, ConvLSTMCell

OPTIONS = [
    {},
    {"kernel_size": 5, "bias": False},
    {"kernel_size": (3, 5), "dilation": 2, "peephole": (3, 4, 1, 1)},
    {"peephole": (3, 1, 6, 7), "output_peephole": "current"},
    {"implementation": "reference"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_loop_of_cells_is_the_layer_with_its_weights(options):
    layer, cell = ConvLSTM(3, 4, **options).double(), ConvLSTMCell(3, 4, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    cell.load_state_dict(layer.state_dict())
    layer.load_state_dict(cell.state_dict())
    x = torch.randn(4, 2, 3, 6, 7, dtype=torch.float64)
    output, state = layer(x)
    hx, outputs = None, []
    for frame in x:
        hx = cell(frame, hx)
        outputs.append(hx[0])
    torch.testing.assert_close(torch.stack(outputs), output)
    torch.testing.assert_close(hx, state)
    ours, theirs = (
        torch.autograd.grad(h.square().sum(), list(m.parameters())) for h, m in ((hx[0], cell), (output[-1], layer))
    )
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other)


def test_compile_export_and_vmap():
    cell, x = ConvLSTMCell(3, 4), torch.randn(5, 2, 3, 6, 7)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    for frame in (x[0], x[0, 0]):
        torch.testing.assert_close(compiled(frame), cell(frame))
    with torch.no_grad():
        program = torch.export.export(cell, (x[0], cell(x[0])))
    torch.testing.assert_close(program.module()(x[0], cell(x[1])), cell(x[0], cell(x[1])))
    each = torch.func.vmap(cell)(x)
    torch.testing.assert_close(each, tuple(torch.stack(parts) for parts in zip(*(cell(frame) for frame in x))))


def test_copies_and_what_is_shown():
    cell = ConvLSTMCell(3, 4, (3, 5), False, dilation=2, peephole=(3, 4, 1, 1), implementation="reference")
    x = torch.randn(2, 3, 6, 7)
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert torch.equal(other(x)[0], cell(x)[0])
    for part in ("kernel_size=(3, 5)", "bias=False", "dilation=2", "peephole=(3, 4, 1, 1)", "'reference'"):
        assert part in repr(cell)
    before = cell.weight_x.clone()
    cell.reset_parameters()
    assert not torch.equal(before, cell.weight_x)


@pytest.mark.parametrize(
    "x, hx, error, message",
    [
        (torch.zeros(2, 4, 6, 7), None, ValueError, r"ConvLSTMCell: x must .* Cin = 3, got shape \(2, 4, 6, 7\)"),
        (torch.zeros(5, 2, 3, 6, 7), None, ValueError, r"ConvLSTMCell: x must have shape \(N, Cin, H, W\) or"),
        ([1], None, TypeError, "ConvLSTMCell: x must be a tensor .*, got list"),
        (torch.zeros(2, 3, 6, 7), torch.zeros(2, 4, 6, 7), ValueError, "state must be None or a pair"),
        (torch.zeros(2, 3, 6, 7), (torch.zeros(2, 4, 6, 6),) * 2, ValueError, r"state\[0\] \(h_0\) must have shape"),
        (torch.zeros(3, 6, 7), (torch.zeros(1, 4, 6, 7),) * 2, ValueError, r"ConvLSTMCell: hx must .* \(C, H, W\)"),
        (torch.zeros(3, 6, 7), torch.zeros(4, 6, 7), ValueError, "ConvLSTMCell: hx must .*, got Tensor"),
    ],
)
def test_bad_input(x, hx, error, message):
    with pytest.raises(error, match=message):
        ConvLSTMCell(3, 4)(x, hx)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((3, 0), {}, "hidden_channels must be an integer of at least 1, got 0"),
        ((3, 4, 2), {}, "kernel_size must be an odd integer"),
        ((3, 4, 3, 2), {}, "bias must be True or False, got 2"),
        ((3, 4), {"padding_mode": 0}, "padding_mode must be one of .*, got 0"),
        ((3, 4), {"norm": "group", "num_groups": 3}, "num_groups must .* divides 4C = 16, .*, got 3"),
        ((3, 4), {"implementation": None}, "implementation must be 'auto' or 'reference', got None"),
    ],
)
def test_bad_options(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTMCell(*arguments, **options)
