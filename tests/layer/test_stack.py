"""ConvLSTM with several layers and directions: held against layers called one by one."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import pdb_ext
from pdb_ext import ConvLSTM, reference


def test_layers_of_different_widths_are_layers_one_after_the_other():
    layer = ConvLSTM(3, [4, 6, 2], 3, 3, dilation=2, peephole=(3, 1, 5, 7), output_peephole="current").double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, 2, 3, 5, 7, dtype=torch.float64)
    h_0, c_0 = ([torch.randn(2, C, 5, 7, dtype=torch.float64) for C in (4, 6, 2)] for _ in "hc")
    output, (h_n, c_n) = layer(x, (h_0, c_0))
    expected, ends = x, []
    for i, suffix in enumerate(("", "_l1", "_l2")):
        weights = [getattr(layer, name + suffix) for name in ("weight_x", "weight_h", "bias", "peephole")]
        options = {"dilation": 2, "output_peephole": "current"}
        expected, end = reference.convlstm(expected, *weights, (h_0[i], c_0[i]), **options)
        ends.append(end)
    torch.testing.assert_close(output, expected)
    for i in range(3):
        torch.testing.assert_close((h_n[i], c_n[i]), ends[i])
    again, _ = layer(x, (h_n, c_n))
    assert again.shape == (4, 2, 2, 5, 7)


def test_both_directions_are_a_layer_and_a_reversed_one():
    layer = ConvLSTM(3, 4, (3, 3), bidirectional=True).double()
    ahead, back = ConvLSTM(3, 4).double(), ConvLSTM(3, 4, reverse=True).double()
    names = [name for name, _ in ahead.named_parameters()]
    ahead.load_state_dict({name: layer.state_dict()[name] for name in names})
    back.load_state_dict({name: layer.state_dict()[f"{name}_reverse"] for name in names})
    x = torch.randn(4, 2, 3, 6, 5, dtype=torch.float64)
    output, (h_n, c_n) = layer(x)
    (one, state), (other, state_back) = ahead(x), back(x)
    torch.testing.assert_close(output, torch.cat([one, other], dim=2))
    torch.testing.assert_close((h_n, c_n), tuple(torch.stack(parts) for parts in zip(state, state_back)))
    assert torch.equal(h_n[1], output[0, :, 4:])


def test_a_reversed_stack_is_the_flipped_sequence():
    ahead, back = ConvLSTM(3, 4, num_layers=2), ConvLSTM(3, 4, num_layers=2, reverse=True)
    back.load_state_dict(ahead.state_dict())
    x = torch.randn(4, 2, 3, 6, 5)
    torch.testing.assert_close(back(x)[0], ahead(x.flip(0))[0].flip(0))


def test_names_of_parameters():
    one = [name for name, _ in ConvLSTM(3, 4, peephole=(3, 4, 1, 1)).named_parameters()]
    assert one == ["weight_x", "weight_h", "bias", "peephole"]
    layer = ConvLSTM(3, [4, 5], num_layers=2, bidirectional=True, bias=False)
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    assert shapes == {
        "weight_x": (16, 3, 3, 3), "weight_h": (16, 4, 3, 3),
        "weight_x_reverse": (16, 3, 3, 3), "weight_h_reverse": (16, 4, 3, 3),
        "weight_x_l1": (20, 8, 3, 3), "weight_h_l1": (20, 5, 3, 3),
        "weight_x_l1_reverse": (20, 8, 3, 3), "weight_h_l1_reverse": (20, 5, 3, 3),
    }  # fmt: skip
    assert layer.bias is layer.bias_l1_reverse is None


def test_every_weight_is_drawn_and_gets_a_gradient():
    layer = ConvLSTM(3, [4, 6], num_layers=2, bidirectional=True)
    bound = (14 * 9) ** -0.5  # layer 1 reads 8 channels and has 6
    assert 0.8 * bound < layer.weight_x_l1_reverse.abs().max() <= bound
    layer(torch.randn(3, 2, 3, 5, 5))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_a_single_layer_answers_as_it_was_asked():
    layer, x = ConvLSTM(3, 4), torch.randn(5, 2, 3, 6, 7)
    _, (h, c) = layer(x)
    assert h.shape == c.shape == (2, 4, 6, 7)
    plain, with_layers = layer(x, (h, c)), layer(x, hx=(h[None], c[None]))
    assert torch.equal(plain[0], with_layers[0])
    assert all(torch.equal(one[None], other) for one, other in zip(plain[1], with_layers[1]))
    assert torch.equal(layer(x, state=(h, c))[0], plain[0])


def test_dropout_between_layers_in_training():
    layer, x = ConvLSTM(3, 64, num_layers=2, dropout=0.25, kernel_size=1), torch.randn(3, 2, 3, 20, 20)
    plain = ConvLSTM(3, 64, num_layers=2, kernel_size=1)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])
    seen = []

    def keep(*arguments, **options):
        seen.append(arguments[0])
        return pdb_ext.convlstm(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdb_ext.modules.padded, "convlstm", keep)
        output, _ = layer.train()(x)
    first, _ = pdb_ext.convlstm(x, layer.weight_x, layer.weight_h, layer.bias)
    kept = seen[1] != 0
    torch.testing.assert_close(seen[1], torch.where(kept, first / 0.75, 0))
    spread = (0.75 * 0.25 / kept.numel()) ** 0.5
    assert abs(kept.double().mean() - 0.75) < 5 * spread
    assert (output != 0).all()  # nothing is dropped of the last layer


def test_dropout_without_a_second_layer_warns_as_nn_lstm_does():
    with pytest.warns(UserWarning, match="dropout=0.5 has no effect with num_layers=1"):
        ConvLSTM(3, 4, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConvLSTM(3, 4, num_layers=2, dropout=0.5)


@pytest.mark.parametrize("kernel_size, dilation", [((3, 5), 1), ((1, 3), 2), ((5, 1), 1)])
def test_rectangular_kernels(kernel_size, dilation):
    """A rectangle is a larger square with zeros around it."""
    layer = ConvLSTM(3, 4, kernel_size, dilation=dilation, peephole=(3, 4, 1, 1)).double()
    side = max(kernel_size)
    square = ConvLSTM(3, 4, side, dilation=dilation, peephole=(3, 4, 1, 1)).double()
    rows, columns = ((side - size) // 2 for size in kernel_size)
    square.load_state_dict(
        {
            name: nn.functional.pad(value, (columns, columns, rows, rows)) if name.startswith("weight") else value
            for name, value in layer.state_dict().items()
        }
    )
    x = torch.randn(3, 2, 3, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), square(x))
    assert layer.kernel_size == kernel_size and ConvLSTM(3, 4, (5, 5)).kernel_size == 5


def test_rectangular_kernels_in_the_layers_of_the_paper():
    layer = pdb_ext.PDBConvLSTM(3, 4, (3, 5), implementation="reference").double()
    x = torch.randn(2, 3, 3, 7, 8, dtype=torch.float64)
    assert layer(x)[0].shape == (2, 3, 8, 7, 8) and layer.branches[1].merge_forward.padding == (2, 4)


def test_copies_pickles_and_what_is_shown():
    layer = ConvLSTM(3, [4, 5], (3, 5), 2, bidirectional=True, dropout=0.1, implementation="reference").eval()
    x = torch.randn(3, 2, 3, 6, 7)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])
    parts = ("3, (4, 5)", "kernel_size=(3, 5)", "num_layers=2", "bidirectional=True", "dropout=0.1", "'reference'")
    for part in parts:
        assert part in repr(layer)


def test_layers_pickled_before_these_options():
    layer, x = ConvLSTM(3, 4), torch.randn(3, 2, 3, 6, 7)
    old = copy.deepcopy(layer)
    for name in ("num_layers", "bidirectional", "dropout", "implementation"):
        del old.__dict__[name]
    assert torch.equal(old(x)[0], layer(x)[0]) and repr(old) == repr(layer)


@pytest.mark.parametrize("batch_first", [False, True])
def test_compile_and_export(batch_first):
    layer = ConvLSTM(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first).eval()
    x = torch.randn(2, 3, 3, 6, 7)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((3, 4), {"bidirectional": True, "reverse": True}, "reverse must be False with bidirectional=True"),
        ((3, 4), {"bidirectional": 1}, "bidirectional must be True or False, got 1"),
        ((3, 4), {"bias": None}, "bias must be True or False, got None"),
        ((3, 4), {"batch_first": "yes"}, "batch_first must be True or False, got 'yes'"),
        ((3, 4), {"num_layers": 0}, "num_layers must be an integer of at least 1, got 0"),
        ((3, [4, 4]), {}, r"hidden_channels must be .* one for each of the num_layers = 1 layers, got \[4, 4\]"),
        ((3, [4, 0]), {"num_layers": 2}, r"hidden_channels must be .*, got \[4, 0\]"),
        ((3, 4, (3, 4)), {}, r"kernel_size must be an odd integer .*, or a pair of them, got \(3, 4\)"),
        ((3, 4, (3, 3, 3)), {}, r"kernel_size must be .*, got \(3, 3, 3\)"),
        ((3, 4), {"dropout": 1.5}, "dropout must be a probability from 0 to 1, got 1.5"),
        ((3, 4), {"dropout": True}, "dropout must be .*, got True"),
        ((3, 4), {"recurrent_dropout": -0.1}, "recurrent_dropout must be a probability from 0 to 1, got -0.1"),
        ((3, 4), {"padding_mode": "same"}, "padding_mode must be one of .*, got 'same'"),
        ((3, 4), {"activation": "selu"}, "^ConvLSTM: activation must be one of .*, got 'selu'"),
        ((3, 4), {"recurrent_activation": 1}, "recurrent_activation must be one of .*, got 1"),
        ((3, 4), {"norm": "instance"}, "norm must be one of .*, got 'instance'"),
        ((3, 4), {"norm": "layer", "num_groups": 2}, "num_groups must .*, or 1 without norm='group', got 2"),
        ((3, [4, 5]), {"num_layers": 2, "norm": "group", "num_groups": 8}, "num_groups must .* 4C = 20, .*, got 8"),
        ((3, 4), {"implementation": "fast"}, "implementation must be 'auto' or 'reference', got 'fast'"),
        ((3, [4, 5]), {"num_layers": 2, "peephole": (3, 4, 1, 1)}, r"peephole must .* with C = 5, got \(3, 4, 1, 1\)"),
    ],
)
def test_bad_options(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ConvLSTM(*arguments, **options)


def test_bad_states():
    x, two, mixed = torch.randn(5, 2, 3, 6, 7), ConvLSTM(3, 4, num_layers=2), ConvLSTM(3, [4, 5], num_layers=2)
    good = torch.randn(2, 2, 4, 6, 7)
    cases = [
        (two, good, r"hx must be None or a pair \(h_0, c_0\), got Tensor"),
        (two, (good,), r"hx must be None or a pair \(h_0, c_0\), got tuple of length 1"),
        (two, (good, good[0]), r"hx\[1\] \(c_0\) must .* = \(2, 2, 4, 6, 7\), got shape \(2, 4, 6, 7\)"),
        (two, (list(good), good), r"hx\[0\] \(h_0\) must be a tensor of shape .*, got list"),
        (mixed, (good, good), r"hx\[0\] \(h_0\) must be a list of 2 tensors .*, got shape"),
        (mixed, (list(good), list(good)), r"hx\[0\] \(h_0\), element 1, must .* = \(2, 5, 6, 7\), got shape"),
        (ConvLSTM(3, 4), (good, good), r"hx\[0\] \(h_0\) must .* = \(1, 2, 4, 6, 7\), got shape \(2, 2, 4, 6, 7\)"),
    ]
    for layer, hx, message in cases:
        with pytest.raises(ValueError, match=f"^ConvLSTM: {message}"):
            layer(x, hx)
    with pytest.raises(ValueError, match="hx and state are two names of one argument; got both"):
        two(x, (good, good), state=(good, good))
