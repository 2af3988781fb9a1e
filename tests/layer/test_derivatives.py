"""Derivatives beyond a plain backward pass: of other kinds, through torch.func, and of gradients: right or refused."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap

import pdb_ext
from pdb_ext import ConvGRU, ConvLSTM, ConvLSTMCell, DBConvLSTM, PDBConvLSTM, _library
from pdb_ext.modules import paper

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")
LAYERS = {
    "ConvLSTM": lambda **options: ConvLSTM(2, 3, **options),
    "stack": lambda **options: ConvLSTM(2, 3, num_layers=2, bidirectional=True, **options),
    "ConvGRU": lambda checkpoint_every=None, recompute_gates=None, **options: ConvGRU(2, 3, **options),
    "DBConvLSTM": lambda **options: DBConvLSTM(2, 3, batch_first=False, **options),
    "PDBConvLSTM": lambda **options: PDBConvLSTM(2, 3, batch_first=False, **options),
}
EACH = pytest.mark.parametrize("name", LAYERS)


def pair(name, **options):
    """The layer with "auto" and with "reference", of the same weights, and an input."""
    layer, other = (LAYERS[name](implementation=how, **options).double() for how in ("auto", "reference"))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    other.load_state_dict(layer.state_dict())
    return layer, other, torch.randn(4, 2, 2, 4, 5, dtype=torch.float64)


def native_calls(function):
    with pdb_ext.record_calls() as calls:
        function()
    return len(calls)


@needs_native
@EACH
def test_the_reference_is_pytorch_alone(name):
    layer, other, x = pair(name)
    assert native_calls(lambda: layer(x)) and not native_calls(lambda: other(x)[0].sum().backward())
    with torch.profiler.profile() as profile:
        other(x)
    assert not [event.key for event in profile.key_averages() if event.key.startswith("pdb_ext")]
    torch.testing.assert_close(layer(x), other(x))


@needs_native
def test_the_reference_of_the_function_and_the_cell():
    x, weight_x, weight_h = (torch.randn(shape) for shape in ((3, 1, 2, 4, 5), (12, 2, 3, 3), (12, 3, 3, 3)))
    assert not native_calls(lambda: pdb_ext.convlstm(x, weight_x, weight_h, implementation="reference"))
    assert not native_calls(lambda: ConvLSTMCell(2, 3, implementation="reference")(x[0]))
    with pytest.raises(ValueError, match="^convlstm: implementation must be 'auto' or 'reference', got 'native'"):
        pdb_ext.convlstm(x, weight_x, weight_h, implementation="native")


def gradient_penalty(layer, x, wanted="x"):
    """The gradients of |d loss / d wanted|^2, as of a critic's."""
    x = x.clone().requires_grad_()
    target = x if wanted == "x" else next(layer.parameters())
    output, _ = layer(x)
    (first,) = torch.autograd.grad(output.sum(), target, create_graph=True)
    return torch.autograd.grad(first.square().sum(), list(layer.parameters()), allow_unused=True)


MEMORY = [{}, {"checkpoint_every": 2}, {"recompute_gates": True}, {"checkpoint_every": 3, "recompute_gates": True}]


@needs_native
@EACH
@pytest.mark.parametrize("wanted", ["x", "weight"])
@pytest.mark.parametrize("options", MEMORY, ids=str)
def test_a_gradient_of_a_gradient_is_refused(name, wanted, options):
    layer, _, x = pair(name, **options)
    with pytest.raises(RuntimeError, match='double backward .* not supported .* use implementation="reference"'):
        gradient_penalty(layer, x, wanted)


@needs_native
@pytest.mark.parametrize("every", [None, 2])
def test_a_penalty_on_the_state_alone_is_refused(every):
    layer = ConvLSTM(2, 3, checkpoint_every=every).double().requires_grad_(False)
    x, h_0 = torch.randn(4, 1, 2, 4, 4, dtype=torch.float64), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    c_0 = torch.randn_like(h_0).requires_grad_()
    (first,) = torch.autograd.grad(layer(x, (h_0, c_0))[0].sum(), c_0, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        first.sum().backward()


@needs_native
def test_the_op_of_a_pyramid_refuses_it_too(monkeypatch):
    layer, _, x = pair("PDBConvLSTM")
    monkeypatch.setattr(paper, "runs_in_one_op", lambda *_: True)
    with pytest.raises(RuntimeError, match='double backward .* use implementation="reference"'):
        gradient_penalty(layer, x)


@EACH
@pytest.mark.parametrize("options", MEMORY[:2], ids=str)
def test_a_gradient_of_a_gradient_by_the_reference(name, options):
    _, layer, x = pair(name, **options)
    step = 1e-6
    grads = gradient_penalty(layer, x)
    parameter, direction = layer.get_parameter(next(iter(layer.state_dict()))), None
    direction = torch.randn_like(parameter)

    def penalty(shift):
        with torch.no_grad():
            parameter.add_(shift * direction)
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(leaf)[0].sum(), leaf)
        with torch.no_grad():
            parameter.sub_(shift * direction)
        return first.square().sum()

    expected = (penalty(step) - penalty(-step)) / (2 * step)
    torch.testing.assert_close((grads[0] * direction).sum(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}], ids=str)
def test_create_graph_alone_changes_no_gradient(options):
    layer, other, x = pair("ConvLSTM", **options)
    one, two = (
        torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()), create_graph=True)
        for module in (layer, other)
    )
    torch.testing.assert_close(one, two)


@EACH
@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}], ids=str)
def test_torch_func(name, options):
    """grad, jacrev, jacfwd and hessian of the layer with "auto", held against plain autograd."""
    layer, other, x = pair(name, **options)
    parameters = dict(other.named_parameters())
    first = next(iter(parameters))

    def loss(values, x=x):
        return functional_call(layer, values, (x,))[0].square().sum()

    expected = torch.autograd.grad(other(x)[0].square().sum(), list(parameters.values()))
    found = grad(loss)({key: value.detach() for key, value in parameters.items()})
    torch.testing.assert_close(list(found.values()), list(expected))

    small = x[:2, :1, :, :2, :2]
    jacobian = torch.autograd.functional.jacobian(lambda value: other(value)[0].sum((1, 3, 4)), small)
    for transform in (jacrev, jacfwd):
        torch.testing.assert_close(transform(lambda value: layer(value)[0].sum((1, 3, 4)))(small), jacobian)
    curvature = torch.autograd.functional.hessian(lambda value: other(value)[0].square().sum(), small)
    torch.testing.assert_close(hessian(lambda value: layer(value)[0].square().sum())(small), curvature)

    def of_one(x):
        return grad(lambda weight: loss({**parameters, first: weight}, x[:, None]))(parameters[first].detach())

    each = vmap(of_one, in_dims=1)(x)
    torch.testing.assert_close(each.sum(0), expected[0])
