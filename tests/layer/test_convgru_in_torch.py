"""How `convgru` fits into PyTorch (opcheck, autocast, compile, devices without a kernel), and bad input."""

import warnings

import pytest
import torch

import pdb_ext
from helpers.problems import GRUProblem, rms, run
from pdb_ext import _library, ops, reference

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")


def op_arguments(problem, requires_grad=True, save=True):
    leaves = [None if v is None else v.requires_grad_(requires_grad) for v in problem.inputs().values()]
    return (*leaves, problem.dilation, problem.reverse, save)


@needs_native
@pytest.mark.parametrize(
    "problem", [GRUProblem(), GRUProblem(state=True, reverse=True, dilation=2), GRUProblem(N=0, bias=False)], ids=str
)
def test_opcheck(problem):
    torch.library.opcheck(torch.ops.pdb_ext.convgru.default, op_arguments(problem))
    *tensors, dilation, reverse, save = op_arguments(problem, requires_grad=False)
    output, gates = torch.ops.pdb_ext.convgru(*tensors, dilation, reverse, save)
    x, weight_x, weight_h, _, h_0 = tensors
    saved = (x, weight_x, weight_h, h_0, output, gates, dilation, reverse)
    for needs in ([True] * 5, [False, True, False, True, False], [True, False, False, False, True]):
        for grad in (output, None):
            torch.library.opcheck(torch.ops.pdb_ext.convgru_backward.default, (grad, *saved, needs))


@needs_native
def test_inference_saves_nothing():
    inputs = op_arguments(GRUProblem(), requires_grad=False)[:-1]
    output, _ = torch.ops.pdb_ext.convgru(*inputs, False)
    assert [torch.ops.pdb_ext.convgru(*inputs, save)[1].numel() for save in (False, True)] == [0, 3 * output.numel()]
    with pdb_ext.record_calls() as calls:
        pdb_ext.convgru(*inputs[:5])
    assert [call["op"] for call in calls] == ["convgru"]
    x = inputs[0].requires_grad_()
    with pytest.raises(RuntimeError, match="convgru: the op was called with save=False"):
        torch.ops.pdb_ext.convgru(x, *inputs[1:], False)[0].sum().backward()


def test_forward_mode_derivatives():
    arguments = tuple(GRUProblem(state=True).inputs().values())
    tangents = tuple(torch.randn_like(v) for v in arguments)
    ours, expected = (
        torch.func.jvp(lambda *values, function=function: function(*values)[0], arguments, tangents)
        for function in (pdb_ext.convgru, reference.convgru)
    )
    assert expected[1].abs().max() > 0.1
    torch.testing.assert_close(ours, expected)


@needs_native
def test_double_backward_is_refused():
    x, weight_x, weight_h, *_ = GRUProblem().inputs().values()
    output, _ = pdb_ext.convgru(x, weight_x, weight_h.requires_grad_())
    (grad,) = torch.autograd.grad(output.sum(), weight_h, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^convgru: double backward .* not supported .* pdb_ext\.convgru(\n|$)"):
        grad.sum().backward()


def test_other_devices_use_the_reference_and_warn(monkeypatch):
    monkeypatch.setattr(ops, "NATIVE_DEVICES", frozenset())
    ops._warn_once.cache_clear()
    inputs = GRUProblem().inputs()
    with pytest.warns(UserWarning, match="no native ConvGRU for device 'cpu'"):
        output, _ = pdb_ext.convgru(**inputs)
    assert torch.equal(output, reference.convgru(**inputs)[0])
    inputs = {k: v.to("meta") for k, v in inputs.items() if v is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, h_n = pdb_ext.convgru(**inputs)
    assert output.shape == (3, 2, 5, 7, 6) and h_n.shape == (2, 5, 7, 6)
    ops._warn_once.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    inputs = {k: v for k, v in GRUProblem(state=True).inputs(torch.float32).items() if v is not None}
    inputs["weight_h"].requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output, h_n = pdb_ext.convgru(**inputs)
        mixed, _ = pdb_ext.convgru(**(inputs | {"x": inputs["x"].to(dtype)}))
    assert output.dtype == h_n.dtype == dtype
    output.sum().backward()
    assert inputs["weight_h"].grad.dtype == torch.float32
    exact, _ = reference.convgru(**inputs)
    assert rms(output - exact) < 4 * torch.finfo(dtype).eps
    assert torch.equal(mixed, output)


@needs_native
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    compiled = torch.compile(pdb_ext.convgru, fullgraph=True, dynamic=dynamic)
    for problem in (GRUProblem(state=True, reverse=True), GRUProblem(T=2, H=9, W=5, state=True, reverse=True)):
        ours, expected = (run(f, problem, problem.inputs()) for f in (compiled, reference.convgru))
        for name in expected:
            torch.testing.assert_close(ours[name], expected[name])


def test_kernels_that_are_not_square_and_the_reference_by_choice():
    inputs = GRUProblem().inputs()
    inputs["weight_x"], inputs["weight_h"] = inputs["weight_x"][:, :, :, :1], inputs["weight_h"][:, :, :, 1:2]
    with pdb_ext.record_calls() as calls:
        torch.testing.assert_close(pdb_ext.convgru(**inputs), reference.convgru(**inputs))
        pdb_ext.convgru(**GRUProblem().inputs(), implementation="reference")
    assert not list(calls)


# T3 N2 Cin3 C5 H7 W6
BAD = [
    ({"x": torch.randn(2, 3, 7, 6)}, r"x must have shape \(T, N, Cin, H, W\), 5 dimensions, got shape \(2, 3, 7, 6\)"),
    ({"x": torch.randn(3, 2, 4, 7, 6)}, r"weight_x must have shape \(3C, Cin, kh, kw\) = \(15, 4, 3, 3\), got"),
    ({"x": torch.randn(3, 2, 3, 7, 6).double()}, "weight_x must have the dtype of x, torch.float64, got torch.float32"),
    ({"weight_h": torch.randn(20, 5, 3, 3)}, r"weight_h must have .* = \(15, 5, 3, 3\), got shape \(20, 5, 3, 3\)"),
    ({"weight_h": torch.randn(15, 5, 4, 4)}, r"weight_h must have .* odd kh and kw, got shape \(15, 5, 4, 4\)"),
    ({"bias": torch.randn(20)}, r"bias must have shape \(3C,\) = \(15,\), got shape \(20,\)"),
    ({"h_0": torch.randn(1, 5, 7, 6)}, r"h_0 must have shape \(N, C, H, W\) = \(2, 5, 7, 6\), got shape \(1, 5"),
    ({"dilation": 0}, "dilation must be an integer of at least 1.*, got 0"),
    ({"reverse": 1}, "reverse must be True or False, got 1"),
]  # fmt: skip


@pytest.mark.parametrize("function", [pdb_ext.convgru, reference.convgru], ids=["native", "reference"])
@pytest.mark.parametrize("changes, message", BAD, ids=[message[:60] for _, message in BAD])
def test_bad_values(function, changes, message):
    inputs = GRUProblem(state=True).inputs(torch.float32)
    function(**inputs)
    with pytest.raises(ValueError, match=f"^convgru: {message}"):
        function(**inputs | changes)


def test_bad_types_and_implementations():
    inputs = GRUProblem().inputs()
    with pytest.raises(TypeError, match="^convgru: h_0 must be a tensor, got tuple"):
        pdb_ext.convgru(**inputs | {"h_0": (1, 2)})
    with pytest.raises(ValueError, match="^convgru: implementation must be 'auto' or 'reference', got 'fast'"):
        pdb_ext.convgru(**inputs, implementation="fast")


@needs_native
def test_the_ops_check_what_they_are_given():
    x, weight_x, weight_h, bias, _ = GRUProblem().inputs().values()
    output, gates = torch.ops.pdb_ext.convgru(x, weight_x, weight_h, bias, None, 1, False, True)
    with pytest.raises(RuntimeError, match=r"convgru: weight_h must have shape \[15, 5, 3, 3\], got \[14, 5, 3, 3\]"):
        torch.ops.pdb_ext.convgru(x, weight_x, weight_h[:14], bias, None, 1, False, True)
    for wrong, message in ((gates[1:], "gates must have the shape"), (gates.float(), "gates must have the dtype of x")):
        with pytest.raises(RuntimeError, match=f"convgru_backward: {message}"):
            torch.ops.pdb_ext.convgru_backward(output, x, weight_x, weight_h, None, output, wrong, 1, False, [True] * 5)
