"""FlopCounterMode counts the native ops as it counts the reference's convolutions."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pdb_ext import ConvGRU, ConvLSTM, DBConvLSTM, PDBConvLSTM, _library
from pdb_ext.modules import paper

pytestmark = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")


def flops(layer, x, state=None, train=True):
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        output, _ = layer(x, state)
        if train:
            output.square().sum().backward()
    return counter.get_total_flops()


def pair(make, **options):
    return make(**options), make(**options, implementation="reference")


@pytest.mark.parametrize(
    "make, options",
    [
        (lambda **options: ConvLSTM(3, 4, **options), {}),
        (lambda **options: ConvLSTM(3, 4, 5, bias=False, peephole=(3, 4, 1, 1), **options), {"dilation": 2}),
        (lambda **options: ConvLSTM(3, [4, 6], num_layers=2, bidirectional=True, **options), {}),
        (lambda **options: ConvGRU(3, [4, 6], num_layers=2, bidirectional=True, **options), {}),
        (lambda **options: DBConvLSTM(3, 4, batch_first=False, **options), {}),
        (lambda **options: PDBConvLSTM(3, 4, batch_first=False, **options), {"merge": "sum"}),
    ],
)
@pytest.mark.parametrize("T", [1, 4])
def test_equals_the_reference(make, options, T):
    native, reference = pair(make, **options)
    x = torch.randn(T, 2, 3, 6, 7)
    assert flops(native, x, train=False) == flops(reference, x, train=False) > 0
    for requires_grad in (False, True):
        x = x.clone().requires_grad_(requires_grad)
        assert flops(native, x) == flops(reference, x)


def test_by_hand():
    layer, x = ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 7)
    assert flops(layer, x, train=False) == 5 * 2 * (2 * 6 * 7) * (4 * 4) * (3 + 4) * 9


@pytest.mark.parametrize("frozen", [["weight_h"], ["weight_x"], ["weight_x", "weight_h", "bias"]], ids=", ".join)
@pytest.mark.parametrize("of_state", [False, True])
@pytest.mark.parametrize("kind", [ConvLSTM, ConvGRU])
def test_only_the_gradients_that_are_asked_for(kind, frozen, of_state):
    native, reference = pair(lambda **options: kind(3, 4, **options))
    state = tuple(torch.randn(2, 4, 6, 7).requires_grad_(of_state) for _ in "hc")
    if kind is ConvGRU:
        state = state[0]
    for layer in (native, reference):
        for name in frozen:
            getattr(layer, name).requires_grad_(False)
    x = torch.randn(4, 2, 3, 6, 7).requires_grad_()
    assert flops(native, x, state) == flops(reference, x, state)


def test_what_is_computed_again_counts_again():
    forward, whole = (flops(ConvLSTM(3, 4), torch.randn(4, 2, 3, 6, 7), train=train) for train in (False, True))
    again = flops(ConvLSTM(3, 4, recompute_gates=True), torch.randn(4, 2, 3, 6, 7))
    assert again == whole + forward


def test_the_op_of_a_pyramid(monkeypatch):
    native, reference = pair(lambda **options: PDBConvLSTM(3, 4, batch_first=False, **options))
    x = torch.randn(4, 2, 3, 6, 7).requires_grad_()
    expected, inference = flops(reference, x), flops(reference, x, train=False)
    monkeypatch.setattr(paper, "runs_in_one_op", lambda *_: True)
    assert flops(native, x) == expected and flops(native, x, train=False) == inference
