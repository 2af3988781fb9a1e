"""Training with less memory: the same results, from fewer stored numbers."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pdb_ext
from pdb_ext import PDBConvLSTM, convlstm
from pdb_ext.checkpointing import SAVE_CELLS, SAVE_GATES_AND_CELLS
from pdb_ext.ops import saves

OPTIONS = [
    {},
    {"reverse": True, "dilation": 2},
    {"output_peephole": "current"},
]


def problem(T=7, dtype=torch.float64, in_channels=3, channels=4):
    state, rows = (2, channels, 5, 6), 4 * channels
    shapes = {"x": (T, 2, in_channels, 5, 6), "weight_x": (rows, in_channels, 3, 3), "weight_h": (rows, channels, 3, 3)}
    shapes |= {"bias": (rows,), "peephole": (3, channels, 1, 1), "h_0": state, "c_0": state}
    return {name: (0.3 * torch.randn(shape, dtype=dtype)).requires_grad_() for name, shape in shapes.items()}


def run(tensors, **options):
    """Outputs, and the gradients of a loss that reads every one of them."""
    named = dict(tensors)
    state = (named.pop("h_0"), named.pop("c_0"))
    output, (h_n, c_n) = convlstm(**named, state=state, **options)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    loss = (output * weights).sum() + (h_n * c_n).sum()
    return [output, h_n, c_n, *torch.autograd.grad(loss, list(tensors.values()))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("every", [1, 2, 3, 6, 7, 100])
def test_the_results_are_the_same(options, every):
    tensors = problem()
    for got, expected in zip(run(tensors, checkpoint_every=every, **options), run(tensors, **options)):
        torch.testing.assert_close(got, expected)


def test_gradcheck():
    x, weight_x, weight_h, bias, peephole, h_0, c_0 = problem(T=4).values()

    def layer(*tensors):
        output, (_, c_n) = convlstm(*tensors[:5], tuple(tensors[5:]), checkpoint_every=3)
        return output, c_n

    assert torch.autograd.gradcheck(layer, (x, weight_x, weight_h, bias, peephole, h_0, c_0), fast_mode=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize(
    "sizes", [{}, {"channels": 17, "in_channels": 16, "dtype": torch.float32}], ids=["direct", "Winograd"]
)
def test_gates_computed_again_give_the_same_bits(options, every, sizes):
    tensors = problem(**sizes)
    recomputed = run(tensors, checkpoint_every=every, recompute_gates=True, **options)
    for got, expected in zip(recomputed, run(tensors, checkpoint_every=every, **options)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("every", [None, 2])
def test_gradcheck_of_recomputed_gates(every):
    tensors = tuple(problem(T=3).values())

    def layer(*tensors):
        output, (_, c_n) = convlstm(*tensors[:5], tuple(tensors[5:]), checkpoint_every=every, recompute_gates=True)
        return output, c_n

    assert torch.autograd.gradcheck(layer, tensors, fast_mode=True)


def test_without_bias_state_and_peephole_gates_are_computed_again_too():
    tensors = {name: tensor for name, tensor in problem().items() if name in ("x", "weight_x", "weight_h")}
    results = []
    for recompute_gates in (False, True):
        output, _ = convlstm(**tensors, recompute_gates=recompute_gates)
        results.append(torch.autograd.grad(output.square().sum(), list(tensors.values())))
    assert all(torch.equal(one, other) for one, other in zip(*results))


class Reserves(TorchDispatchMode):
    """Watches what the op stores for backward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.pdb_ext.convlstm.default:
            self.seen.append(weakref.ref(result[2].untyped_storage()))
        return result

    def alive(self):
        """Bytes."""
        return sum(reference().nbytes() for reference in self.seen if reference() is not None)


@pytest.mark.parametrize(
    ("every", "recompute_gates", "outputs"), [(None, False, 5), (None, True, 1), (3, False, 0), (3, True, 0)]
)
def test_what_is_stored_between_forward_and_backward(every, recompute_gates, outputs):
    tensors = problem()
    with Reserves() as reserves:
        named = {name: tensors[name] for name in ("x", "weight_x", "weight_h", "bias")}
        output, _ = convlstm(**named, checkpoint_every=every, recompute_gates=recompute_gates)
        assert reserves.seen and reserves.alive() == outputs * output.nbytes
        output.sum().backward()


@pytest.mark.parametrize("merge", ["tanh", "sum"])
def test_layers_hand_it_on(merge):
    options = {"merge": merge, "peephole": (3, 4, 1, 1), "dtype": torch.float64}
    saving = PDBConvLSTM(3, 4, checkpoint_every=2, recompute_gates=True, **options)
    plain = PDBConvLSTM(3, 4, **options)
    plain.load_state_dict(saving.state_dict())
    layers = [m for m in saving.modules() if isinstance(m, pdb_ext.ConvLSTM)]
    assert all(m.checkpoint_every == 2 and m.recompute_gates for m in layers) and len(layers) == 4
    x = torch.randn(2, 5, 3, 6, 5, dtype=torch.float64)
    gradients = []
    for layer in (saving, plain):
        output, _ = layer(x)
        gradients.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    for got, expected in zip(*gradients):
        torch.testing.assert_close(got, expected)


def test_under_compile_and_autocast():
    tensors = problem(dtype=torch.float32)
    named = {name: tensor for name, tensor in tensors.items() if name not in ("h_0", "c_0")}
    compiled = torch.compile(convlstm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**named, checkpoint_every=3)[0], convlstm(**named)[0])
    with torch.autocast("cpu", torch.bfloat16):
        output = convlstm(**named, checkpoint_every=3)[0]
        expected = convlstm(**named)[0]
    assert output.dtype == torch.bfloat16
    # c is rounded to bfloat16 at the two seams; h reads it through functions of slope at most 1.
    torch.testing.assert_close(output, expected, atol=4 * 2**-8, rtol=0)
    output.float().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in named.values())


@pytest.mark.parametrize("every", [0, -1, 2.0, True, "2"])
def test_a_wrong_value_is_named(every):
    x = torch.zeros(3, 1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"checkpoint_every must be None or an integer of at least 1, got"):
        convlstm(x, torch.zeros(8, 2, 3, 3), torch.zeros(8, 2, 3, 3), checkpoint_every=every)
    with pytest.raises(ValueError, match="checkpoint_every must"):
        pdb_ext.ConvLSTM(2, 2, checkpoint_every=every)


@pytest.mark.parametrize("value", [1, 0, "yes"])
def test_a_wrong_recompute_gates_is_named(value):
    x = torch.zeros(3, 1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"recompute_gates must be None, True or False, got"):
        convlstm(x, torch.zeros(8, 2, 3, 3), torch.zeros(8, 2, 3, 3), recompute_gates=value)
    with pytest.raises(ValueError, match="recompute_gates must"):
        pdb_ext.ConvLSTM(2, 2, recompute_gates=value)


@pytest.mark.parametrize(
    ("device", "dtype", "T", "side", "expected"),
    [
        ("cuda", torch.bfloat16, 80, 60, True),
        ("cuda", torch.float16, 9, 60, True),
        ("cuda", torch.bfloat16, 8, 60, False),  # all steps at once in backward anyway
        ("cuda", torch.float32, 80, 60, False),
        ("cuda", torch.bfloat16, 80, 240, False),  # more than 4 GFLOP a step
        ("cpu", torch.bfloat16, 80, 60, False),
    ],
)
def test_by_default_gates_are_computed_again_where_that_is_cheap(device, dtype, T, side, expected):
    # Stands in for a tensor on a GPU, so that none is needed.
    x = SimpleNamespace(shape=(T, 1, 32, side, side), dtype=dtype, device=torch.device(device))
    weight_h = SimpleNamespace(shape=(128, 32, 3, 3))
    assert saves(None, x, weight_h, T) == (SAVE_CELLS if expected else SAVE_GATES_AND_CELLS)
    assert saves(True, x, weight_h, T) == SAVE_CELLS and saves(False, x, weight_h, T) == SAVE_GATES_AND_CELLS


def test_inference_does_not_ask_what_to_save(monkeypatch):
    """The answer depends on sizes, which an exported program for inference must not."""

    def asked(*_):
        raise AssertionError("what to save was asked for")

    monkeypatch.setattr(pdb_ext.ops, "saves", asked)
    layer, x = pdb_ext.ConvLSTM(2, 3), torch.randn(4, 1, 2, 5, 6)
    with torch.no_grad():
        layer(x)
    with pytest.raises(AssertionError, match="what to save"):
        layer(x)


def test_checkpoints_decide_by_their_own_length(monkeypatch):
    asked = []
    monkeypatch.setattr(pdb_ext.ops, "saves", lambda *arguments: asked.append(arguments[-1]) or SAVE_GATES_AND_CELLS)
    pdb_ext.ConvLSTM(2, 3, checkpoint_every=4)(torch.randn(20, 1, 2, 5, 6))[0].sum().backward()
    assert asked == [4]
