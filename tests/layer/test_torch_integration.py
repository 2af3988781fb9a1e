"""How the op fits into PyTorch: opcheck, autograd's modes, autocast, compile, devices without a kernel."""

import warnings

import pytest
import torch

import pdb_ext
from helpers.problems import FIXED, Problem, rms, run
from pdb_ext import _library, ops, reference

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")


def op_arguments(problem, requires_grad=True, save=1):
    inputs = problem.inputs()
    if problem.peephole:
        inputs["peephole"] = inputs["peephole"].expand(3, problem.C, problem.H, problem.W).contiguous()
    leaves = [None if v is None else v.requires_grad_(requires_grad) for v in inputs.values()]
    return (*leaves, problem.dilation, problem.reverse, problem.output_peephole == "current", save)


@needs_native
@pytest.mark.parametrize(
    "problem, save",
    [(Problem(), 1), (FIXED[7], 1), (FIXED[8], 1), (FIXED[2], 1), (FIXED[8], 2), (FIXED[2], 2)],
    ids=str,
)
def test_opcheck(problem, save):
    torch.library.opcheck(torch.ops.pdb_ext.convlstm.default, op_arguments(problem, save=save))


@needs_native
@pytest.mark.parametrize("save", [1, 2])
def test_opcheck_of_backward(save):
    *tensors, dilation, reverse, peephole_current, _ = op_arguments(FIXED[7], requires_grad=False)
    options = (dilation, reverse, peephole_current)
    output, c_n, reserve = torch.ops.pdb_ext.convlstm(*tensors, *options, save)
    saved = (*tensors, output, reserve)
    for grads in ((output, c_n), (output, None), (None, c_n)):
        for needs in ([True] * 7, [False, True, False, True, False, True, False]):
            torch.library.opcheck(torch.ops.pdb_ext.convlstm_backward.default, (*grads, *saved, *options, needs))


@needs_native
def test_inference_saves_nothing():
    inputs = op_arguments(Problem(), requires_grad=False)[:-1]
    output, _, reserve = torch.ops.pdb_ext.convlstm(*inputs, 0)
    assert reserve.numel() == 0
    assert [torch.ops.pdb_ext.convlstm(*inputs, save)[2].numel() for save in (1, 2)] == [
        5 * output.numel(),
        output.numel(),
    ]
    with torch.no_grad():
        output, _ = pdb_ext.convlstm(*inputs[:4])
    assert output.grad_fn is None


def test_forward_mode_derivatives():
    inputs = Problem(peephole="map").inputs()
    arguments = tuple(v for v in inputs.values() if v is not None)
    tangents = tuple(torch.randn_like(v) for v in arguments)
    ours, expected = (
        torch.func.jvp(lambda *values, function=function: function(*values)[0], arguments, tangents)
        for function in (pdb_ext.convlstm, reference.convlstm)
    )
    assert expected[1].abs().max() > 0.1
    torch.testing.assert_close(ours, expected)


@needs_native
def test_double_backward_is_refused():
    x, weight_x, weight_h, *_ = Problem().inputs().values()
    weight_h.requires_grad_()
    output, _ = pdb_ext.convlstm(x, weight_x, weight_h)
    (grad,) = torch.autograd.grad(output.sum(), weight_h, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward .* not supported"):
        grad.sum().backward()


def test_other_devices_use_the_reference_and_warn_once(monkeypatch):
    monkeypatch.setattr(ops, "NATIVE_DEVICES", frozenset())
    ops._warn_once.cache_clear()
    inputs = {k: v for k, v in Problem().inputs().items() if v is not None}
    with pytest.warns(UserWarning, match="no native ConvLSTM for device 'cpu'"):
        output, _ = pdb_ext.convlstm(**inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdb_ext.convlstm(**inputs)
    assert torch.equal(output, reference.convlstm(**inputs)[0])
    ops._warn_once.cache_clear()


def test_meta_device():
    inputs = {k: v.to("meta") for k, v in Problem().inputs().items() if v is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, (h_n, c_n) = pdb_ext.convlstm(**inputs)
    assert output.shape == (3, 2, 5, 7, 6) and h_n.shape == c_n.shape == (2, 5, 7, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    problem = Problem(peephole="map")
    inputs = {k: v for k, v in problem.inputs(torch.float32).items() if v is not None}
    inputs["weight_h"].requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        output, (h_n, c_n) = pdb_ext.convlstm(**inputs)
        mixed, _ = pdb_ext.convlstm(**(inputs | {"x": inputs["x"].to(dtype)}))
    assert output.dtype == h_n.dtype == c_n.dtype == dtype
    output.sum().backward()
    assert inputs["weight_h"].grad.dtype == torch.float32
    exact, _ = reference.convlstm(**inputs)
    assert rms(output - exact) < 4 * torch.finfo(dtype).eps
    assert torch.equal(mixed, output)


@needs_native
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic):
    problem = Problem(peephole="map", state=True, reverse=True)
    compiled = torch.compile(pdb_ext.convlstm, fullgraph=True, dynamic=dynamic)
    for other in (problem, Problem(T=2, H=9, W=5, peephole="map", state=True, reverse=True)):
        ours, expected = (run(f, other, other.inputs()) for f in (compiled, reference.convlstm))
        for name in expected:
            torch.testing.assert_close(ours[name], expected[name])


@needs_native
def test_compiled_autograd():
    problem = Problem(bias=False)  # an argument that is left out has no place among the gradients
    compiled = getattr(torch._dynamo.compiled_autograd, "_enable", None)
    if compiled is None:
        pytest.skip("this PyTorch enables compiled autograd in another way")
    expected = run(reference.convlstm, problem, problem.inputs())
    with compiled(torch.compile(backend="aot_eager")):
        ours = run(pdb_ext.convlstm, problem, problem.inputs())
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])


def test_compile_under_autocast():
    inputs = {k: v for k, v in Problem().inputs(torch.float32).items() if v is not None}

    @torch.compile(fullgraph=True)
    def step(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return pdb_ext.convlstm(**inputs)[0]

    exact, _ = reference.convlstm(**inputs)
    assert rms(step(inputs) - exact) < 4 * torch.finfo(torch.bfloat16).eps
