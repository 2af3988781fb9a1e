"""ConvGRU and ConvGRUCell: the meanings of torch.nn.GRU and GRUCell, stacks, states, cells, messages."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pdb_ext
from pdb_ext import ConvGRU, ConvGRUCell, reference


def as_image(tensor):
    return tensor[..., None, None]


def without_products_of_n(gru):
    """`gru` with W_hn = 0: it resets after that product and its bias, a ConvGRU before it."""
    C = gru.hidden_size
    with torch.no_grad():
        for name, parameter in gru.named_parameters():
            if "_hh" in name:
                parameter[2 * C :] = 0
    return gru


def convgru_like(gru: nn.GRU) -> ConvGRU:
    """A ConvGRU of one pixel with the weights of `gru`, whose gates have the same order."""
    layer = ConvGRU(
        gru.input_size, gru.hidden_size, 1, gru.num_layers, bidirectional=gru.bidirectional, bias=gru.bias,
        batch_first=gru.batch_first, dtype=gru.weight_ih_l0.dtype,
    )  # fmt: skip
    with torch.no_grad():
        for i in range(gru.num_layers):
            for way in ("", "_reverse") if gru.bidirectional else ("",):
                suffix = (f"_l{i}" if i else "") + way
                for name, theirs in (("weight_x", "weight_ih"), ("weight_h", "weight_hh")):
                    getattr(layer, name + suffix).copy_(as_image(getattr(gru, f"{theirs}_l{i}{way}")))
                if gru.bias:
                    bias = getattr(gru, f"bias_ih_l{i}{way}") + getattr(gru, f"bias_hh_l{i}{way}")
                    getattr(layer, "bias" + suffix).copy_(bias)
    return layer


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 3, "bidirectional": True}, {"num_layers": 2, "bias": False, "batch_first": True}],
    ids=str,
)
def test_is_nn_gru_on_one_pixel(options):
    gru = without_products_of_n(nn.GRU(5, 4, **options).double())
    layer = convgru_like(gru)
    count = gru.num_layers * (2 if gru.bidirectional else 1)
    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    state = torch.randn(count, 6 if gru.batch_first else 3, 4, dtype=torch.float64)
    for hx in (None, state):
        expected = gru(x, hx)
        found = layer(as_image(x), None if hx is None else as_image(hx))
        torch.testing.assert_close(found[0], as_image(expected[0]))
        # A single layer in one direction has no axis for layers unless it was given one.
        theirs = expected[1] if count > 1 or hx is not None else expected[1][0]
        torch.testing.assert_close(found[1], as_image(theirs))
        grads = [torch.autograd.grad(output.square().sum() + end.sum(), x) for output, end in (found, expected)]
        torch.testing.assert_close(*grads)


def test_is_nn_gru_of_a_packed_sequence():
    lengths = torch.tensor([3, 5, 1, 5])
    gru = without_products_of_n(nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True).double())
    layer, x = convgru_like(gru), torch.randn(4, 6, 3, dtype=torch.float64)
    expected, h_n = gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    expected, _ = pad_packed_sequence(expected, batch_first=True, total_length=6)
    output, end = layer(as_image(x), lengths=lengths)
    torch.testing.assert_close((output, end), (as_image(expected), as_image(h_n)))


def test_is_nn_gru_cell_on_one_pixel():
    theirs = without_products_of_n(nn.GRUCell(3, 4).double())
    cell = ConvGRUCell(3, 4, 1).double()
    with torch.no_grad():
        cell.weight_x.copy_(as_image(theirs.weight_ih))
        cell.weight_h.copy_(as_image(theirs.weight_hh))
        cell.bias.copy_(theirs.bias_ih + theirs.bias_hh)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for take in (lambda tensor: tensor, lambda tensor: tensor[0]):  # a batch, and one alone
        for hx in (None, take(h)):
            found = cell(as_image(take(x)), None if hx is None else as_image(hx))
            torch.testing.assert_close(found, as_image(theirs(take(x), hx)))


def drawn(layer):
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def test_layers_of_different_widths_are_layers_one_after_the_other():
    layer = drawn(ConvGRU(3, [4, 6, 2], 3, 3, dilation=2))
    x = torch.randn(4, 2, 3, 5, 7, dtype=torch.float64)
    h_0 = [torch.randn(2, C, 5, 7, dtype=torch.float64) for C in (4, 6, 2)]
    output, h_n = layer(x, h_0)
    expected = x
    for i, suffix in enumerate(("", "_l1", "_l2")):
        weights = [getattr(layer, name + suffix) for name in ("weight_x", "weight_h", "bias")]
        expected, end = reference.convgru(expected, *weights, h_0[i], dilation=2)
        torch.testing.assert_close(h_n[i], end)
    torch.testing.assert_close(output, expected)
    assert layer(x, h_n)[0].shape == (4, 2, 2, 5, 7)


def test_both_directions_are_a_layer_and_a_reversed_one():
    layer, ahead, back = drawn(ConvGRU(3, 4, bidirectional=True)), ConvGRU(3, 4), ConvGRU(3, 4, reverse=True)
    names = [name for name, _ in ahead.named_parameters()]
    assert names == ["weight_x", "weight_h", "bias"]
    ahead.double().load_state_dict({name: layer.state_dict()[name] for name in names})
    back.double().load_state_dict({name: layer.state_dict()[f"{name}_reverse"] for name in names})
    x = torch.randn(4, 2, 3, 6, 5, dtype=torch.float64)
    output, h_n = layer(x)
    (one, end), (other, end_back) = ahead(x), back(x)
    torch.testing.assert_close((output, h_n), (torch.cat([one, other], dim=2), torch.stack([end, end_back])))


def test_a_single_layer_answers_as_it_was_asked():
    layer, x = ConvGRU(3, 4), torch.randn(5, 2, 3, 6, 7)
    _, h = layer(x)
    plain, with_layers = layer(x, h), layer(x, hx=h[None])
    assert torch.equal(plain[0], with_layers[0]) and torch.equal(plain[1][None], with_layers[1])
    first = ConvGRU(3, 4, batch_first=True)
    first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(first(x.transpose(0, 1), h), (plain[0].transpose(0, 1), plain[1]))


def test_dropout_between_layers_in_training():
    layer, x = ConvGRU(3, 16, 1, 2, dropout=0.5), torch.randn(3, 2, 3, 8, 8)
    plain = ConvGRU(3, 16, 1, 2)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])
    layer.train()
    assert not torch.allclose(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="^ConvGRU: dropout=0.5 has no effect with num_layers=1"):
        ConvGRU(3, 4, dropout=0.5)


CELLS = [{}, {"kernel_size": 5, "bias": False}, {"kernel_size": (3, 5), "dilation": 2}, {"implementation": "reference"}]


@pytest.mark.parametrize("options", CELLS, ids=str)
def test_a_loop_of_cells_is_the_layer_with_its_weights(options):
    layer, cell = drawn(ConvGRU(3, 4, **options)), ConvGRUCell(3, 4, **options).double()
    cell.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3, 6, 7, dtype=torch.float64)
    output, h_n = layer(x)
    h, outputs = None, []
    for frame in x:
        h = cell(frame, h)
        outputs.append(h)
    torch.testing.assert_close((torch.stack(outputs), h), (output, h_n))
    ours, theirs = (
        torch.autograd.grad(end.square().sum(), list(m.parameters())) for end, m in ((h, cell), (h_n, layer))
    )
    torch.testing.assert_close(ours, theirs)


def test_training_lowers_a_loss():
    layer, head = ConvGRU(2, 8, num_layers=2), nn.Conv2d(8, 1, 1)
    x = torch.randn(6, 2, 2, 8, 8)
    target = x[:, :, :1].cumsum(0).tanh()
    optimiser, losses = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-2), []
    for _ in range(40):
        loss = (head(layer(x)[0].flatten(0, 1)) - target.flatten(0, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_compile_export_and_vmap():
    layer, cell = ConvGRU(3, 4, num_layers=2, bidirectional=True).eval(), ConvGRUCell(3, 4)
    x = torch.randn(5, 2, 3, 6, 7)
    for module, arguments in ((layer, (x,)), (cell, (x[0], cell(x[1])))):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), module(*arguments))
        with torch.no_grad():
            program = torch.export.export(module, arguments)
        torch.testing.assert_close(program.module()(*arguments), module(*arguments))
    torch.testing.assert_close(torch.func.vmap(cell)(x), torch.stack([cell(frame) for frame in x]))


def test_copies_pickles_and_what_is_shown():
    layer = ConvGRU(3, [4, 5], (3, 5), 2, bidirectional=True, dropout=0.1, implementation="reference").eval()
    cell, x = ConvGRUCell(3, 4, (3, 5), False, dilation=2), torch.randn(3, 2, 3, 6, 7)
    for copied in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(layer)(x)[0], layer(x)[0]) and torch.equal(copied(cell)(x[0]), cell(x[0]))
    for part in ("ConvGRU(3, (4, 5)", "kernel_size=(3, 5)", "num_layers=2", "bidirectional=True", "'reference'"):
        assert part in repr(layer)
    assert repr(cell) == "ConvGRUCell(3, 4, kernel_size=(3, 5), dilation=2, bias=False)"
    before = cell.weight_x.clone()
    cell.reset_parameters()
    bound = (7 * 15) ** -0.5
    assert not torch.equal(before, cell.weight_x) and 0.8 * bound < cell.weight_x.abs().max() <= bound


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConvGRU(3, 4, 2), "ConvGRU: kernel_size must be an odd integer"),
        (lambda: ConvGRU(3, 4, num_layers=0), "ConvGRU: num_layers must be an integer of at least 1, got 0"),
        (lambda: ConvGRU(3, [4, 4]), r"ConvGRU: hidden_channels must be .* one for each of the num_layers = 1 layers"),
        (lambda: ConvGRU(3, 4, dropout=1.5), "ConvGRU: dropout must be a probability from 0 to 1, got 1.5"),
        (lambda: ConvGRU(3, 4, bidirectional=True, reverse=True), "ConvGRU: reverse must be False with bidirectional"),
        (lambda: ConvGRU(3, 4, implementation="fast"), "convgru: implementation must be .*, got 'fast'"),
        (lambda: ConvGRUCell(3, 0), "ConvGRUCell: hidden_channels must be an integer of at least 1, got 0"),
        (lambda: ConvGRUCell(3, 4, 3, 2), "ConvGRUCell: bias must be True or False, got 2"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_bad_inputs():
    x, good = torch.randn(5, 2, 3, 6, 7), torch.randn(2, 2, 4, 6, 7)
    one, two, mixed = ConvGRU(3, 4), ConvGRU(3, 4, num_layers=2), ConvGRU(3, [4, 5], num_layers=2)
    cell = ConvGRUCell(3, 4)
    cases = [
        (one, x[0], None, r"ConvGRU: x must have shape \(T, N, Cin, H, W\) with Cin = 3"),
        (one, x, good, r"ConvGRU: hx must .* = \(1, 2, 4, 6, 7\), got shape \(2, 2, 4, 6, 7\)"),
        (one, x, good[0, :1], r"convgru: h_0 must have shape .* = \(2, 4, 6, 7\), got shape \(1, 4, 6, 7\)"),
        (two, x, good[0], r"ConvGRU: hx must be a tensor of shape .* = \(2, 2, 4, 6, 7\), got shape \(2, 4, 6, 7\)"),
        (two, x, (good, good), "ConvGRU: hx must be a tensor of shape .*, got tuple"),
        (mixed, x, good, "ConvGRU: hx must be a list of 2 tensors .*, got shape"),
        (mixed, x, list(good), r"ConvGRU: hx, element 1, must have shape .* = \(2, 5, 6, 7\), got shape"),
        (cell, x, None, r"ConvGRUCell: x must have shape \(N, Cin, H, W\) or"),
        (cell, x[0, 0], good[0], r"ConvGRUCell: hx must be None or a tensor \(C, H, W\).*, got shape \(2, 4, 6, 7\)"),
    ]
    for layer, given, hx, message in cases:
        with pytest.raises(ValueError, match=f"^{message}"):
            layer(given, hx)
    with pytest.raises(TypeError, match="^convgru: h_0 must be a tensor, got tuple"):
        one(x, (good[0], good[0]))


@pytest.mark.skipif(pdb_ext._library.native is None, reason="needs the compiled library")
def test_half_precision_and_an_empty_batch():
    layer, x = ConvGRU(3, 4), torch.randn(4, 2, 3, 6, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer(x[:, :0])[0].shape == (4, 0, 4, 6, 7)
        output, h_n = layer.bfloat16()(x.bfloat16())
    assert output.dtype == h_n.dtype == torch.bfloat16
