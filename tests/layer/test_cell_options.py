"""What a cell may do otherwise than the native op: held against torch.nn's modules written out step by step."""

import copy
import pickle
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, relu6

import pdb_ext
from helpers.problems import rms
from pdb_ext import ConvLSTM, ConvLSTMCell, _library, modules, pdb_convlstm, reference

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")
OPTIONS = {
    "circular": {"padding_mode": "circular", "kernel_size": (3, 5), "dilation": 2},
    "replicate": {"padding_mode": "replicate", "peephole": (3, 4, 1, 1)},
    "reflect": {"padding_mode": "reflect", "dilation": 2, "bias": False},
    "relu": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "keras2": {"activation": "hard_sigmoid", "recurrent_activation": "hard_sigmoid_keras2", "reverse": True},
    "sigmoid": {"activation": "sigmoid", "recurrent_activation": "tanh"},
    "group": {"norm": "group", "num_groups": 8},
    "layer": {"norm": "layer", "peephole": (3, 4, 6, 7), "output_peephole": "current"},
    "all": {
        "padding_mode": "circular", "activation": "relu", "recurrent_activation": "hard_sigmoid", "norm": "group",
        "num_groups": 2, "peephole": (3, 1, 1, 1), "reverse": True,
    },
}  # fmt: skip
EACH = pytest.mark.parametrize("name", OPTIONS)
FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "hard_sigmoid": lambda x: relu6(x + 3) / 6,  # torch's hardsigmoid has float32 constants in float64
    "hard_sigmoid_keras2": lambda x: (0.2 * x + 0.5).clip(0, 1),
}


def randomised(layer, dtype=torch.float64):
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer.to(dtype)


def clip_and_state(dtype=torch.float64):
    return torch.randn(4, 2, 3, 6, 7, dtype=dtype), torch.randn(2, 2, 4, 6, 7, dtype=dtype).unbind()


def written_out(layer, x, state, mask=1.0):
    """What the layer returns, by nn.Conv2d of cat(x, h) and torch's own norms."""
    weight = torch.cat([layer.weight_x, layer.weight_h], dim=1)
    padding = [layer.dilation * (side // 2) for side in weight.shape[2:]]
    conv = nn.Conv2d(7, 16, weight.shape[2:], 1, padding, layer.dilation, padding_mode=layer.padding_mode)
    group = nn.GroupNorm(layer.num_groups, 16)
    act, gate = FUNCTIONS[layer.activation], FUNCTIONS[layer.recurrent_activation]
    (h, c), outputs = state, []
    peephole = layer.peephole if layer.peephole is not None else torch.zeros(3, 1, 1, 1, dtype=x.dtype)
    bias = layer.bias if layer.bias is not None else torch.zeros(16, dtype=x.dtype)
    for frame in x.flip(0) if layer.reverse else x:
        sums = torch.func.functional_call(conv, {"weight": weight, "bias": bias}, torch.cat([frame, mask * h], dim=1))
        if layer.norm == "group":
            scales = {"weight": layer.norm_weight, "bias": layer.norm_bias}
            sums = torch.func.functional_call(group, scales, sums)
        elif layer.norm == "layer":
            sums = layer_norm(sums.permute(0, 2, 3, 1), (16,), layer.norm_weight, layer.norm_bias).permute(0, 3, 1, 2)
        i, f, o, g = sums.split(4, dim=1)
        new = gate(f + peephole[1] * c) * c + gate(i + peephole[0] * c) * act(g)
        h = gate(o + peephole[2] * (new if layer.output_peephole == "current" else c)) * act(new)
        c = new
        outputs.append(h)
    return torch.stack(outputs[::-1] if layer.reverse else outputs), (h, c)


def with_gradients(function, layer, x, state):
    leaves = [part.clone().requires_grad_() for part in (x, *state)]
    output, (h, c) = function(leaves[0], (leaves[1], leaves[2]))
    total = (output * torch.arange(output.numel()).view_as(output).cos()).sum() + (h * c).sum()
    return [output, h, c, *torch.autograd.grad(total, [*leaves, *layer.parameters()])]


@EACH
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_the_layer_is_torch_written_out(name, implementation):
    layer = randomised(ConvLSTM(3, 4, implementation=implementation, **OPTIONS[name]))
    x, state = clip_and_state()
    ours = with_gradients(layer, layer, x, state)
    theirs = with_gradients(lambda x, state: written_out(layer, x, state), layer, x, state)
    torch.testing.assert_close(ours, theirs)
    assert ours[3].abs().sum() > 0


@EACH
def test_error_is_at_most_twice_that_of_torch_written_out(name):
    errors = []
    for dtype in (torch.float32, torch.bfloat16):
        layer = randomised(ConvLSTM(3, 4, **OPTIONS[name]), dtype)
        inputs = [clip_and_state(dtype) for _ in range(4)]
        exact_layer = copy.deepcopy(layer).double()
        for function in (layer, lambda x, state, layer=layer: written_out(layer, x, state)):
            exact = [written_out(exact_layer, x.double(), [part.double() for part in s])[0] for x, s in inputs]
            errors.append(rms(torch.stack([function(x, s)[0] for x, s in inputs]) - torch.stack(exact)))
        ours, theirs = errors[-2:]
        assert ours <= max(2 * theirs, 2 * torch.finfo(dtype).eps), (dtype, ours, theirs)


@EACH
def test_gradcheck_twice(name):
    small = {"kernel_size": 3, "dilation": 1, "peephole": None}
    layer = randomised(ConvLSTM(1, 2, **OPTIONS[name] | small))
    x = torch.randn(2, 1, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x)[0], (x, *layer.parameters()))
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (x,))


@needs_native
def test_the_defaults_are_the_native_op_and_nothing_else_is():
    x, _ = clip_and_state()
    mask = torch.ones(4, 1, 1, dtype=torch.float64)
    defaults = {"padding_mode": "zeros", "activation": "tanh", "recurrent_activation": "sigmoid", "norm": None}
    for options in ({}, defaults, *OPTIONS.values()):
        layer = ConvLSTM(3, 4, **options).double()
        cell = ConvLSTMCell(3, 4, **{name: value for name, value in options.items() if name != "reverse"}).double()
        is_native = options in ({}, defaults)
        assert layer.allows_native() == is_native
        with pdb_ext.record_calls() as calls:
            layer(x), cell(x[0])
        assert len(calls) == (2 if is_native else 0), options
        with pdb_ext.record_calls() as calls:
            cell(x[0], None, mask)
        assert not calls
    names = pdb_ext.build_info()["reference_options"].keys()
    assert names >= {*defaults, "recurrent_mask", "recurrent_dropout"}


def test_a_pyramid_with_such_a_layer_is_not_one_op(monkeypatch):
    monkeypatch.setattr(pdb_convlstm, "NATIVE_DEVICES", {"cuda"})
    monkeypatch.setattr(pdb_convlstm.ops, "needs_reference", lambda _: False)
    on_cuda = types.SimpleNamespace(device=torch.device("cuda"), numel=lambda: 1)
    layers = [ConvLSTM(4, 4), ConvLSTM(4, 4, reverse=True)]
    assert pdb_convlstm.runs_in_one_op(on_cuda, layers, [])
    for options in ({"padding_mode": "circular"}, {"norm": "layer"}, {"recurrent_dropout": 0.5}):
        layers[1] = ConvLSTM(4, 4, reverse=True, **options)
        assert not pdb_convlstm.runs_in_one_op(on_cuda, layers, [])
    layers[1].eval()
    assert pdb_convlstm.runs_in_one_op(on_cuda, layers, [])


@EACH
def test_a_loop_of_cells_is_the_layer(name):
    options = {key: value for key, value in OPTIONS[name].items() if key != "reverse"}
    layer, cell = randomised(ConvLSTM(3, 4, **options)), ConvLSTMCell(3, 4, **options).double()
    cell.load_state_dict(layer.state_dict())
    x, hx = clip_and_state()
    output, end = layer(x, hx)
    for frame, h in zip(x, output):
        hx = cell(frame, hx)
        torch.testing.assert_close(hx[0], h)
    one = cell(x[0, 0], tuple(part[0] for part in end), torch.rand(4, 1, 1, dtype=torch.float64))
    assert one[0].shape == (4, 6, 7)


def test_the_function_has_the_layers_options():
    x, state = clip_and_state()
    layer = randomised(ConvLSTM(3, 4, **OPTIONS["all"]))
    weights = (layer.weight_x, layer.weight_h, layer.bias, layer.peephole)
    options = {"norm_weight": layer.norm_weight, "norm_bias": layer.norm_bias, **OPTIONS["all"]}
    del options["peephole"]
    for mask in (None, torch.rand(2, 4, 1, 1, dtype=torch.float64), torch.rand(6, 1, dtype=torch.float64)):
        expected = written_out(layer, x, state, 1.0 if mask is None else mask)
        for function in (pdb_ext.convlstm, reference.convlstm):
            torch.testing.assert_close(function(x, *weights, state, recurrent_mask=mask, **options), expected)
    plain, _ = pdb_ext.convlstm(x, *weights[:3], norm="layer")  # without scale and offset
    ones, zeros = torch.ones(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    other, _ = pdb_ext.convlstm(x, *weights[:3], norm="layer", norm_weight=ones, norm_bias=zeros)
    torch.testing.assert_close(plain, other)


def test_parameters_of_norms():
    layer = ConvLSTM(3, [4, 6], num_layers=2, bidirectional=True, norm="group", num_groups=8)
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items() if name.startswith("norm")}
    assert shapes == {
        f"norm_{kind}{suffix}": (4 * C,)
        for kind in ("weight", "bias")
        for suffix, C in (("", 4), ("_reverse", 4), ("_l1", 6), ("_l1_reverse", 6))
    }
    for _ in range(2):
        assert all((value == ("weight" in name)).all() for name, value in layer.named_parameters() if "norm" in name)
        randomised(layer).reset_parameters()
    layer(torch.randn(3, 2, 3, 5, 5, dtype=torch.float64))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())
    back = ConvLSTM(3, 4, reverse=True, norm="group", num_groups=8)
    back.load_state_dict({name: layer.state_dict()[f"{name}_reverse"] for name in back.state_dict()})
    both, one = ConvLSTM(3, 4, bidirectional=True, norm="group", num_groups=8), torch.randn(3, 2, 3, 5, 5)
    both.load_state_dict({name: layer.state_dict()[name] for name in both.state_dict()})
    torch.testing.assert_close(both(one)[0][:, :, 4:], back(one)[0])
    assert "norm_weight" not in ConvLSTM(3, 4).state_dict() and ConvLSTM(3, 4).norm_weight is None


def test_copies_pickles_and_what_is_shown():
    options = OPTIONS["all"] | {"recurrent_dropout": 0.25}
    layer = ConvLSTM(3, 4, **options).eval()
    x = torch.randn(4, 2, 3, 6, 7)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], layer(x)[0])
    for part in ("padding_mode='circular'", "activation='relu'", "recurrent_activation='hard_sigmoid'",
                 "norm='group'", "num_groups=2", "recurrent_dropout=0.25"):  # fmt: skip
        assert part in repr(layer)
    assert "padding_mode='circular'" in repr(ConvLSTMCell(3, 4, padding_mode="circular"))
    assert not any(name in repr(ConvLSTM(3, 4)) for name in ("norm", "activation", "padding", "recurrent"))


def test_layers_pickled_before_these_options():
    layer, cell = ConvLSTM(3, 4), ConvLSTMCell(3, 4)
    x = torch.randn(4, 2, 3, 6, 7)
    for module, given in ((layer, x), (cell, x[0])):
        old = copy.deepcopy(module)
        for name in ("padding_mode", "activation", "recurrent_activation", "norm", "num_groups", "recurrent_dropout"):
            old.__dict__.pop(name, None)
        del old._parameters["norm_weight"], old._parameters["norm_bias"]
        assert torch.equal(old(given)[0], module(given)[0]) and repr(old) == repr(module)


# Dropout of states


def masks_of(layer, x, **arguments):
    """What the layer returns, and the masks it drew."""
    drawn = []

    def keep(*arguments):
        drawn.append(modules.options.draw_mask(*arguments))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules.stack, "draw_mask", keep)
        return layer(x, **arguments), drawn


def test_one_mask_a_sequence():
    """The same at every step, another one for each layer, direction and call; scaled, and nothing else."""
    p, x = 0.25, torch.randn(3, 2, 3, 20, 20, dtype=torch.float64)
    layer = randomised(ConvLSTM(3, 16, 1, 2, bidirectional=True, recurrent_dropout=p))
    (output, _), masks = masks_of(layer, x)
    assert len(masks) == 4 and all(mask.shape == (2, 16, 20, 20) for mask in masks)
    both, n = torch.stack(masks), 0
    assert ((both == 0) | ((both - 1 / (1 - p)).abs() < 1e-12)).all()
    assert abs((both != 0).double().mean() - (1 - p)) < 5 * (p * (1 - p) / both.numel()) ** 0.5
    assert all(not torch.equal(one, other) for one, other in zip(masks, masks[1:] + masks_of(layer, x)[1]))
    expected = x
    for layer_number in ("", "_l1"):
        parts = []
        for suffix in (layer_number, f"{layer_number}_reverse"):
            weights = [getattr(layer, name + suffix) for name in ("weight_x", "weight_h", "bias", "peephole")]
            parts.append(by_steps(expected.flip(0) if "reverse" in suffix else expected, weights, masks[n]))
            n += 1
        expected = torch.cat([parts[0], parts[1].flip(0)], dim=2)
    torch.testing.assert_close(output, expected)


def by_steps(x, weights, mask):
    """One step of the native op after the other, given h_{t-1} times the mask."""
    state, outputs = None, []
    for frame in x:
        state = state and (mask * state[0], state[1])
        output, state = pdb_ext.convlstm(frame[None], *weights, state)
        outputs.append(output)
    return torch.cat(outputs)


@needs_native
def test_no_dropout_in_eval():
    layer, x = randomised(ConvLSTM(3, 4, recurrent_dropout=0.5)), torch.randn(4, 2, 3, 6, 7, dtype=torch.float64)
    plain = ConvLSTM(3, 4).double()
    plain.load_state_dict(layer.state_dict())
    with pdb_ext.record_calls() as calls:
        layer(x)
        assert not calls
        assert torch.equal(layer.eval()(x)[0], plain(x)[0]) and len(calls) == 2
    before = torch.random.get_rng_state()
    plain.train()(x), layer.eval()(x)
    assert torch.equal(before, torch.random.get_rng_state())
    layer.train().recurrent_dropout = 1.0
    torch.testing.assert_close(layer(x)[0], by_steps(x, (layer.weight_x, layer.weight_h, layer.bias, None), 0.0))


# How they fit into PyTorch


@pytest.mark.parametrize("name", ["all", "layer"])
def test_half_precision_and_autocast(name):
    x = torch.randn(4, 2, 3, 6, 7)
    options = OPTIONS[name] | {"recurrent_dropout": 0.5}
    for dtype in (torch.float16, torch.bfloat16):
        layer = ConvLSTM(3, 4, **options)
        with torch.autocast("cpu", dtype=dtype):
            output, (h, c) = layer(x)
        assert output.dtype == h.dtype == c.dtype == dtype
        output.sum().backward()
        assert layer.norm_weight.grad.dtype == torch.float32
        assert layer.to(dtype)(x.to(dtype))[0].dtype == dtype


def test_compile_and_export():
    layer = ConvLSTM(3, 4, recurrent_dropout=0.5, norm="group", padding_mode="circular")
    x = torch.randn(2, 2, 3, 6, 7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    expected = layer.eval()(x)
    torch.testing.assert_close(compiled(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)
    cell, mask = ConvLSTMCell(3, 4), torch.rand(2, 4, 1, 1)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[0], cell(x[1]), mask), cell(x[0], cell(x[1]), mask))
