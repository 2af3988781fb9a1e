"""What people do with any layer of PyTorch works with ours, too: they give what a twin of PyTorch's operators gives.

The twin has the same weights, and the same is done to it. Of a converted cell it is the same cell, not converted.
"""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import pdb_ext
from helpers.convlstms import ConvLSTMCell, op_at_any_size
from pdb_ext import _library

T, N, C_IN, C, H, W = 3, 4, 3, 5, 7, 6


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


class Loop(nn.Module):
    """A cell of somebody else's, and a loop over the frames that gives what our layers give."""

    def __init__(self, cell):
        super().__init__()
        self.cell, self.shift = cell, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        state, outputs = self.cell.init_hidden(x.shape[1], x.shape[-2:]), []
        for frame in x:
            state = self.cell(frame, state)
            outputs.append(state[0] + self.shift)
        return torch.stack(outputs), state


class Model(nn.Module):
    """A layer between others, which other people's tools find in it."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(C, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0].movedim(2, -1))


LAYERS = {"ConvLSTM": pdb_ext.ConvLSTM, "ConvGRU": pdb_ext.ConvGRU}
WEIGHTS = {"ConvLSTM": ("", "weight_h"), "ConvGRU": ("", "weight_h"), "converted": ("cell.conv", "weight")}


def twins(kind, dtype=torch.float64):
    """A model with our layer, and one of the same weights without our op."""
    if kind == "converted":
        theirs = Model(Loop(ConvLSTMCell(C_IN, C, (3, 3), True)))
        ours = pdb_ext.convert(copy.deepcopy(theirs), strict=True)
    else:
        theirs = Model(LAYERS[kind](C_IN, C, implementation="reference"))
        ours = Model(LAYERS[kind](C_IN, C))
        ours.load_state_dict(theirs.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def frames(dtype=torch.float64):
    return torch.randn(T, N, C_IN, H, W, dtype=dtype)


def owner(model, kind):
    """The module that has the weight named in WEIGHTS."""
    return model.layer.get_submodule(WEIGHTS[kind][0])


def gradients(model, output):
    model.zero_grad()
    output.square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(ours, theirs, x, by_op=True):
    """Outputs and gradients of two models; by_op: whether ours has used the op."""
    with pdb_ext.record_calls() as calls:
        output = ours(x)
    expected = theirs(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(ours, output), gradients(theirs, expected))
    assert bool(calls) == (by_op and _library.native is not None)


def train(model, x, steps=3, step=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        if step is None:
            loss.backward()
            optimizer.step()
        else:
            step(model, loss, optimizer)


def assert_same_weights(ours, theirs, **tolerance):
    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()), **tolerance)


KINDS = pytest.mark.parametrize("kind", WEIGHTS)


# What is done to the weights.


@KINDS
@pytest.mark.parametrize("way", [prune.l1_unstructured, prune.random_unstructured])
def test_prune(kind, way):
    ours, theirs = twins(kind)
    for model in (ours, theirs):
        torch.manual_seed(1)
        way(owner(model, kind), WEIGHTS[kind][1], amount=0.5)
    weight = getattr(owner(ours, kind), WEIGHTS[kind][1])
    assert (weight == 0).double().mean().sub(0.5).abs() < 0.01
    assert_same(ours, theirs, frames(), by_op=kind != "converted")
    train(ours, x := frames())
    train(theirs, x)
    for model in (ours, theirs):
        prune.remove(owner(model, kind), WEIGHTS[kind][1])
    assert_same(ours, theirs, frames())


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm of old": nn.utils.weight_norm,
    "spectral_norm of old": nn.utils.spectral_norm,
}


@KINDS
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # about those of old
def test_norms_of_weights(kind, norm):
    ours, theirs = twins(kind)
    for model in (ours, theirs):
        torch.manual_seed(1)
        NORMS[norm](owner(model, kind), WEIGHTS[kind][1])
    assert_same(ours, theirs, frames(), by_op=kind != "converted")
    train(ours, x := frames())
    train(theirs, x)
    assert_same(ours.eval(), theirs.eval(), x, by_op=kind != "converted")


@KINDS
def test_quantize_dynamic_leaves_the_layer(kind):
    ours, theirs = twins(kind, torch.float32)
    engines = torch.backends.quantized.supported_engines
    if set(engines) <= {"none"} or not hasattr(torch.ao.quantization, "quantize_dynamic"):
        pytest.skip("this PyTorch cannot quantize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torchao will have it
        ours, theirs = (torch.ao.quantization.quantize_dynamic(model) for model in (ours, theirs))
    assert not isinstance(ours.head, nn.Linear) and type(ours.layer) is type(theirs.layer)
    x = frames(torch.float32)
    with pdb_ext.record_calls() as calls, torch.no_grad():
        torch.testing.assert_close(ours.layer(x), theirs.layer(x))
        assert bool(calls) == (_library.native is not None)
        torch.testing.assert_close(ours(x), theirs(x), atol=0.02, rtol=0)  # a value may fall on another step


# Copies.


@KINDS
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_train_apart(kind, copied):
    (ours, theirs), x = twins(kind), frames()
    other = copied(ours)
    train(other, x)
    assert_same(ours, theirs, x)
    train(theirs, x)
    assert_same_weights(other, theirs)
    assert_same(other, theirs, x)


@KINDS
def test_state_dicts_fit_both_ways(kind, tmp_path):
    (ours, theirs), (more, _), x = twins(kind), twins(kind), frames()
    train(ours, x)
    torch.save(ours.state_dict(), tmp_path / "weights.pt")
    for model in (theirs, more):
        model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert_same(ours, model, x)
    assert_same(more, theirs, x)


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_assigned_to_a_model_on_the_meta_device(kind):
    (ours, theirs), x = twins(kind), frames()
    with torch.device("meta"):
        empty, _ = twins(kind)
    empty.load_state_dict(ours.state_dict(), assign=True)
    assert_same(empty, theirs, x)


@KINDS
def test_averaged_models(kind):
    (ours, theirs), x = twins(kind), frames()
    averages = [torch.optim.swa_utils.AveragedModel(model) for model in (ours, theirs)]
    seen = []
    for _ in range(3):
        for model, average in zip((ours, theirs), averages):
            train(model, x, steps=1)
            average.update_parameters(model)
        seen.append(owner(ours, kind).state_dict()[WEIGHTS[kind][1]].clone())
    assert_same(*averages, x)
    mean = owner(averages[0].module, kind).state_dict()[WEIGHTS[kind][1]]
    torch.testing.assert_close(mean, sum(seen) / 3)
    assert not torch.equal(mean, seen[-1])


# Training.


@KINDS
def test_grad_scaler(kind):
    ours, theirs = twins(kind, torch.float32)
    scaler, x = torch.amp.GradScaler("cpu", init_scale=1024.0), frames(torch.float32)

    def scaled(model, loss, optimizer):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(optimizer)
        scaler.update()

    train(ours, x, step=scaled)
    train(theirs, x)
    assert_same_weights(ours, theirs, atol=1e-5, rtol=1e-4)
    assert scaler.get_scale() == 1024


@KINDS
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(kind, use_reentrant):
    (ours, theirs), x = twins(kind), frames()
    given, expected = (x.clone().requires_grad_() for _ in range(2))
    with pdb_ext.record_calls() as calls:
        output = checkpoint(ours, given, use_reentrant=use_reentrant)
        forward_calls = len(calls)
        found = gradients(ours, output)
    assert len(calls) > 2 * forward_calls or _library.native is None  # forward again, and backward
    torch.testing.assert_close(found, gradients(theirs, theirs(expected)))
    torch.testing.assert_close(given.grad, expected.grad)


# Hooks.


@KINDS
def test_forward_hooks(kind):
    (ours, theirs), x, seen = twins(kind), frames(), []
    for model in (ours, theirs):
        model.layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
        model.layer.register_forward_hook(lambda module, args, output: (output[0] + 1, output[1]))
        model.layer.register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
    assert_same(ours, theirs, x)
    torch.testing.assert_close(*seen)


def add_one(parameter):
    parameter.grad += 1


@KINDS
def test_backward_hooks(kind):
    (ours, theirs), x, seen = twins(kind), frames(), []
    for model in (ours, theirs):
        model.layer.register_full_backward_hook(lambda module, into, out: seen.append((into[0], out[0])))
        weight = getattr(owner(model, kind), WEIGHTS[kind][1])
        weight.register_hook(lambda grad: 3 * grad)
        weight.register_post_accumulate_grad_hook(add_one)
    gradients_of = [gradients(model, model(x.clone().requires_grad_())) for model in (ours, theirs)]
    torch.testing.assert_close(*gradients_of)
    torch.testing.assert_close(*seen)


# Types of numbers.


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(kind, dtype):
    (ours, theirs), x = twins(kind), frames()
    exact = theirs(x)
    ours.to(dtype)
    with pdb_ext.record_calls() as calls:
        output = ours(x.to(dtype))
    assert calls or kind == "converted" or _library.native is None
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, atol=10 * torch.finfo(dtype).eps, rtol=0)
    output.float().square().sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in ours.parameters())
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours.double(), theirs, x)  # and back


@pytest.mark.parametrize("kind", LAYERS)
def test_float64_equals_the_reference(kind):
    layer, x = LAYERS[kind](C_IN, C, dtype=torch.float64), frames()
    expected = getattr(pdb_ext.reference, kind.lower())(x, layer.weight_x, layer.weight_h, layer.bias)
    torch.testing.assert_close(layer(x), expected)
