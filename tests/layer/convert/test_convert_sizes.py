"""Which calls of a converted module are worth the op, and that the weights of single steps are not copied about."""

import pytest
import torch

import pdb_ext
from helpers.convlstms import ConvLSTMCell, GatesInConvLSTMCell, StackedConvLSTM, op_at_any_size
from pdb_ext.convert import fused


def uses_op(module, *arguments):
    with pdb_ext.record_calls() as calls, torch.no_grad():
        module(*arguments)
    return len(calls)


def step(C, size):
    return torch.randn(1, C, size, size), (torch.randn(1, C, size, size), torch.randn(1, C, size, size))


@pytest.mark.parametrize(
    ("C", "kernel", "size", "expected"),
    [(16, 3, 8, 0), (16, 3, 16, 1), (64, 3, 8, 1), (16, 1, 32, 0), (64, 1, 16, 1), (16, 5, 3, 0), (16, 5, 4, 1),
     (8, 3, 64, 0), (8, 5, 64, 0), (12, 1, 64, 0)],
)  # fmt: skip
def test_a_single_step(C, kernel, size, expected):
    cell = pdb_ext.convert(ConvLSTMCell(C, C, (kernel, kernel), True), strict=True)
    assert uses_op(cell, *step(C, size)) == expected


def test_several_steps_need_fewer_pixels():
    stack = pdb_ext.convert(StackedConvLSTM(16, [16], (3, 3), True), strict=True)
    assert uses_op(stack, torch.randn(1, 4, 16, 6, 6)) == 1 and uses_op(stack, torch.randn(1, 1, 16, 6, 6)) == 0


def test_a_stack_of_which_one_layer_is_too_narrow_for_the_op_runs_it_for_none():
    stack = pdb_ext.convert(StackedConvLSTM(16, [16, 8], (3, 3), True), strict=True)
    assert uses_op(stack, torch.randn(1, 3, 16, 16, 16)) == 3  # the steps of the first layer, one by one
    with op_at_any_size():
        stack = pdb_ext.convert(StackedConvLSTM(16, [16, 8], (3, 3), True), strict=True)
        assert uses_op(stack, torch.randn(1, 3, 16, 16, 16)) == 2  # the two layers


@pytest.mark.parametrize("make", [lambda: ConvLSTMCell(4, 4, (3, 3), True), lambda: GatesInConvLSTMCell(4, 4)])
def test_weights_lie_at_one_place_in_inference(monkeypatch, make):
    seen, op = [], fused.convlstm

    def note(x, weight_x, weight_h, *arguments, **options):
        seen.append((weight_x.data_ptr(), weight_h.data_ptr()))
        return op(x, weight_x, weight_h, *arguments, **options)

    monkeypatch.setattr(fused, "convlstm", note)
    (x, state), garbage = step(4, 8), []
    with op_at_any_size():
        cell = pdb_ext.convert(make(), strict=True)
        seen.clear()
        for context in (torch.no_grad, torch.inference_mode, torch.no_grad):
            with context():
                for factor in (1.0, 1.5, 1.0):
                    for parameter in cell.parameters():
                        parameter.data *= factor
                    ours = cell(x, state)
                    garbage += [torch.randn(16, 4, 3, 3) for _ in range(3)]
                    torch.testing.assert_close(ours, type(cell).forward(cell, x, state))
            assert len(set(seen)) == 1
            seen.clear()
