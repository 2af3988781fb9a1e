"""Padded batches: every clip gets what it gets alone, and nothing behind its end is read, written or learnt from."""

import itertools

import pytest
import torch
from torch import nn

from pdb_ext import ConvGRU, ConvLSTM, DBConvLSTM, PDBConvLSTM
from pdb_ext.modules import stack

LENGTHS = [3, 5, 1, 5]
LAYERS = {
    "plain": lambda: ConvLSTM(3, 4, peephole=(3, 4, 1, 1)),
    "reverse": lambda: ConvLSTM(3, 4, reverse=True),
    "both": lambda: ConvLSTM(3, 4, bidirectional=True),
    "stack": lambda: ConvLSTM(3, [4, 5], num_layers=2, bidirectional=True),
    "reversed stack": lambda: ConvLSTM(3, 4, num_layers=2, reverse=True),
    "checkpoints": lambda: ConvLSTM(3, 4, checkpoint_every=2),
    "reference": lambda: ConvLSTM(3, 4, (3, 5), num_layers=2),
    "options": lambda: ConvLSTM(3, 4, num_layers=2, padding_mode="circular", activation="relu", norm="layer"),
    "GRU": lambda: ConvGRU(3, 4),
    "GRU stack": lambda: ConvGRU(3, [4, 5], num_layers=2, bidirectional=True),
    "DB tanh": lambda: DBConvLSTM(3, 4, batch_first=False),
    "DB sum": lambda: DBConvLSTM(3, 4, merge="sum", batch_first=False),
    "PDB": lambda: PDBConvLSTM(3, 4, batch_first=False),
}
EACH = pytest.mark.parametrize("name", LAYERS)


def layer_and_input(name):
    layer = LAYERS[name]().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer, torch.randn(6, 4, 3, 5, 6, dtype=torch.float64)


def of_clip(state, n):
    """The state of one clip: the axis of clips is the one before (C, H, W)."""
    return torch.utils._pytree.tree_map(lambda part: part.narrow(part.dim() - 4, n, 1), state)


def leaves(state):
    return [part for part in torch.utils._pytree.tree_leaves(state) if part is not None]


def random_state(layer, x):
    """Like the one it returns."""
    state = layer(x)[1]
    return torch.utils._pytree.tree_map(torch.randn_like, state)


@EACH
@pytest.mark.parametrize("has_state", [False, True])
def test_every_clip_as_if_alone(name, has_state):
    layer, x = layer_and_input(name)
    state = random_state(layer, x) if has_state else None
    given = [part.requires_grad_() for part in leaves(state)]
    padded = x.clone()
    for n, length in enumerate(LENGTHS):
        padded[length:, n] = float("nan")
    x, padded = x.requires_grad_(), padded.requires_grad_()
    output, end = layer(padded, state, LENGTHS)

    expected, loss = torch.zeros_like(output), 0
    draw = torch.randn_like(output)
    for n, length in enumerate(LENGTHS):
        alone, end_alone = layer(x[:length, n : n + 1], None if state is None else of_clip(state, n))
        expected = expected.index_put((torch.arange(length), torch.tensor(n)), alone[:, 0])
        for one, other in zip(leaves(of_clip(end, n)), leaves(end_alone), strict=True):
            torch.testing.assert_close(one, other)
        loss = loss + sum(part.square().sum() for part in leaves(end_alone))
    torch.testing.assert_close(output, expected)
    inputs = [*layer.parameters(), *given]
    loss = loss + (expected * draw).sum()
    total = (output * draw).sum() + sum(part.square().sum() for part in leaves(end))
    grads = torch.autograd.grad(loss, [x, *inputs])
    for ours, theirs in zip(torch.autograd.grad(total, [padded, *inputs]), grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all((grads[0][length:, n] == 0).all() for n, length in enumerate(LENGTHS))


@pytest.mark.parametrize("reverse", [False, True])
def test_any_order_of_lengths(reverse):
    layer = ConvLSTM(2, 3, reverse=reverse).double()
    x = torch.randn(3, 3, 2, 4, 4, dtype=torch.float64)
    alone = {(n, T): layer(x[:T, n : n + 1])[0] for n in range(3) for T in (1, 2, 3)}
    for lengths in itertools.product((1, 2, 3), repeat=3):
        output, (h_n, _) = layer(x, lengths=list(lengths))
        for n, length in enumerate(lengths):
            torch.testing.assert_close(output[:length, n], alone[n, length][:, 0])
            torch.testing.assert_close(h_n[n], output[0 if reverse else length - 1, n])
            assert (output[length:, n] == 0).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_every_clip_keeps_its_mask_of_dropout(reverse, monkeypatch):
    masks = (torch.rand(4, 4, 5, 6) > 0.5).double() * 2
    layer = ConvLSTM(3, 4, recurrent_dropout=0.5, reverse=reverse).double()
    x = torch.randn(6, 4, 3, 5, 6, dtype=torch.float64)
    monkeypatch.setattr(stack, "draw_mask", lambda *_: masks)
    output, (h_n, _) = layer(x, lengths=LENGTHS)
    for n, length in enumerate(LENGTHS):
        monkeypatch.setattr(stack, "draw_mask", lambda *_, n=n: masks[n : n + 1])
        alone, (h, _) = layer(x[:length, n : n + 1])
        torch.testing.assert_close(output[:length, n], alone[:, 0])
        torch.testing.assert_close(h_n[n], h[0])


@EACH
def test_full_lengths_change_nothing(name):
    layer, x = layer_and_input(name)
    for lengths in ([6] * 4, (6,) * 4, torch.full((4,), 6), torch.full((4,), 6, dtype=torch.int32)):
        torch.testing.assert_close(layer(x, None, lengths), layer(x), rtol=0, atol=0)


def test_batch_first_empty_batch_and_half_precision():
    first, second = ConvLSTM(3, 4, batch_first=True), ConvLSTM(3, 4)
    second.load_state_dict(first.state_dict())
    x = torch.randn(6, 4, 3, 5, 6)
    output, state = first(x.transpose(0, 1), lengths=LENGTHS)
    other, other_state = second(x, lengths=LENGTHS)
    torch.testing.assert_close((output.transpose(0, 1), state), (other, other_state))
    assert second(x[:, :0], lengths=[])[0].shape == (6, 0, 4, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = ConvLSTM(3, 4, reverse=True)(x, (torch.zeros(4, 4, 5, 6),) * 2, lengths=LENGTHS)
    assert half.dtype == torch.bfloat16


def test_gradcheck():
    layer = ConvLSTM(1, 2, bidirectional=True).double()
    x = torch.randn(3, 2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, lengths=[3, 2])[0], (x,))


@EACH
@pytest.mark.parametrize(
    "lengths, got",
    [
        ([3, 5, 0, 5], r"\[3, 5, 0, 5\]"),
        ([3, 7, 1, 5], r"\[3, 7, 1, 5\]"),
        ([3, 5, 1], "list of length 3"),
        ([3, 5, True, 5], r"\[3, 5, True, 5\]"),
        ([3, 5, 1.0, 5], r"\[3, 5, 1.0, 5\]"),
        (4, "int"),
        (torch.tensor([3.0, 5, 1, 5]), r"shape \(4,\) of dtype torch.float32"),
        (torch.tensor([[3, 5, 1, 5]]), r"shape \(1, 4\) of dtype torch.int64"),
    ],
    ids=str,
)
def test_bad_lengths(name, lengths, got):
    layer, x = layer_and_input(name)
    message = f"lengths must be None or N = 4 integers from 1 to T = 6, in a list or an integer tensor .*, got {got}$"
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}: {message}"):
        layer(x, None, lengths)


def test_a_state_of_another_batch_is_named():
    state = torch.zeros(5, 4, 5, 6)
    with pytest.raises(ValueError, match=r"state\[0\] \(h_0\) must have shape .*, got shape \(5, 4, 5, 6\)"):
        ConvLSTM(3, 4)(torch.randn(6, 4, 3, 5, 6), (state, state), lengths=LENGTHS)
