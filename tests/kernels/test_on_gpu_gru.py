"""The ConvGRU on a real GPU, on every path; skipped without one. test_gru.py runs the same kernels without a GPU."""

import contextlib
import dataclasses

import pytest
import torch

import pdb_ext
from helpers.cuda_problems import GRU_CASES, GruProblem
from helpers.on_gpu import (
    DEVICE,
    DTYPES,
    assert_in_trace,
    assert_path,
    captured,
    forced,
    kernel_names,
    roundings,
    skip_without_gpu,
    tf32,
)  # fmt: skip
from helpers.problems import rms
from pdb_ext import reference

skip_without_gpu()

PATHS = pytest.mark.parametrize("path", ["step", "aten"])
PRECISIONS = pytest.mark.parametrize("precision", list(DTYPES))
PAPER = GruProblem(T=5, N=1, in_channels=32, C=32, H=60, W=60, dilation=2)
LARGE = GruProblem(T=2, N=8, in_channels=64, C=64, H=64, W=64)
EIGHTY = GruProblem(T=80, N=1, in_channels=16, C=16, H=24, W=24, dilation=2)
ACCURACY = {name: GRU_CASES[name] for name in ("odd", "above the tile", "nothing optional", "two groups of channels")}
ACCURACY |= {"paper": PAPER, "reverse": dataclasses.replace(PAPER, dilation=1, reverse=True), "large": LARGE}


@contextlib.contextmanager
def precise(precision: str):
    """The settings of a precision. cuDNN takes deterministic algorithms only, as every path of ours does."""
    with tf32(precision == "tf32"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "deterministic", True)
        yield


def ours(problem, dtype=torch.float32, seed=0):
    return problem.run(pdb_ext.convgru, problem.inputs(dtype, seed, DEVICE))


def results_and_gradients(inputs, dilation=2):
    """Without anything of the CPU's, for other streams and for capturing."""
    output, _ = pdb_ext.convgru(**inputs, dilation=dilation)
    return [output, *torch.autograd.grad(output, list(inputs.values()), output.detach())]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@PATHS
@pytest.mark.parametrize("name", GRU_CASES)
def test_float64_equals_the_reference(path, name):
    problem = GRU_CASES[name]
    expected = problem.run(reference.convgru, problem.inputs())
    with forced(path):
        actual = ours(problem, torch.float64)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key].cpu(), value, msg=lambda text, key=key: f"{key}: {text}")


def assert_as_accurate_as_pytorch(problem, precision, path, draws=4):
    """The rule of this project: the RMS error against float64 is at most twice that of PyTorch's operators on the GPU.

    Pooled over draws; results of a few numbers are left out: a ratio of few roundings is luck.
    """
    errors = {}
    for seed in range(draws):
        inputs = problem.inputs(DTYPES[precision], seed, DEVICE)
        exact = problem.run(reference.convgru, problem.in_dtype(inputs, torch.float64))
        with precise(precision):
            theirs = problem.run(reference.convgru, inputs)
            with forced(path):
                mine = problem.run(pdb_ext.convgru, inputs)
        for key, value in exact.items():
            one = (value, theirs[key].double() - value, mine[key].double() - value)
            errors.setdefault(key, []).append(one)
    for key in (key for key, values in errors.items() if values[0][0].numel() >= 16):
        value, theirs, mine = (rms(torch.stack(parts)) for parts in zip(*errors[key]))
        allowed = max(2 * theirs, roundings(precision) * value)
        assert mine <= allowed, f"{key}: RMS error {mine:.3g}, allowed {allowed:.3g}"


@PATHS
@PRECISIONS
@pytest.mark.parametrize("name", ACCURACY)
def test_error_is_at_most_twice_that_of_pytorch(path, precision, name):
    assert_as_accurate_as_pytorch(ACCURACY[name], precision, path, draws=1 if name == "large" else 4)


@PATHS
@PRECISIONS
def test_errors_do_not_grow_over_eighty_steps(path, precision):
    assert_as_accurate_as_pytorch(EIGHTY, precision, path, draws=2)


@PATHS
@PRECISIONS
def test_the_trace_shows_the_kernels_of_the_path(path, precision):
    with precise(precision), forced(path) as calls:
        names = kernel_names(lambda: ours(PAPER, DTYPES[precision]))
    assert [call["op"] for call in calls] == 2 * ["convgru", "convgru_backward"]
    assert all(call["tensor_cores"] == (precision != "float32") for call in calls)
    assert_in_trace(calls, names)


@PATHS
@PRECISIONS
def test_the_same_bits_in_every_run(path, precision):
    with precise(precision), forced(path):
        inputs = PAPER.inputs(DTYPES[precision], device=DEVICE)
        first = results_and_gradients(inputs)
        for _ in range(5):
            assert_equal(first, results_and_gradients(inputs))


@PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_capture_in_a_cuda_graph(path, dtype):
    inputs = PAPER.inputs(dtype, device=DEVICE)
    with forced(path):
        graph, results = captured(lambda: results_and_gradients(inputs))
        with torch.no_grad():
            inputs["x"].copy_(torch.randn_like(inputs["x"]))
            inputs["weight_h"].mul_(0.5)
        graph.replay()
        assert_equal(results_and_gradients(inputs), results)


@PATHS
def test_runs_on_the_current_stream(path):
    """A kernel on another stream would read x before the slow work that fills it has ended."""
    inputs = PAPER.inputs(torch.float32, device=DEVICE)
    with forced(path):
        expected = results_and_gradients(inputs)
        x, slow = inputs["x"].detach(), torch.randn(4096, 4096, device=DEVICE)
        late = torch.zeros_like(x).requires_grad_()
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                slow = slow @ slow * 1e-3
            late.data.copy_(x + 0 * slow[0, 0].nan_to_num(0, 0, 0))
            actual = results_and_gradients(inputs | {"x": late})
        torch.cuda.synchronize()
    assert_equal(actual, expected)


@PATHS
@pytest.mark.parametrize("reverse", [False, True])
def test_the_state_carries_on(path, reverse):
    problem = dataclasses.replace(PAPER, T=6, reverse=reverse)
    inputs = {name: value.detach() for name, value in problem.inputs(device=DEVICE).items()}
    parts = inputs["x"].split(3)
    with forced(path), torch.no_grad():
        whole, _ = pdb_ext.convgru(**inputs, dilation=2, reverse=reverse)
        h, outputs = inputs["h_0"], []
        for part in reversed(parts) if reverse else parts:
            output, h = pdb_ext.convgru(**(inputs | {"x": part, "h_0": h}), dilation=2, reverse=reverse)
            outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs[::-1] if reverse else outputs), whole)


@PATHS
def test_gradcheck(path):
    problem = GruProblem(T=2, N=1, in_channels=2, C=2, H=3, W=4)
    inputs = problem.inputs(device=DEVICE)

    def function(*tensors):
        return pdb_ext.convgru(**dict(zip(inputs, tensors)))[0]

    with forced(path):
        assert torch.autograd.gradcheck(function, list(inputs.values()))


def test_weights_are_kept_and_never_stale():
    inputs = {name: value.detach() for name, value in PAPER.inputs(torch.float16, device=DEVICE).items()}
    with torch.no_grad(), forced("step"), pdb_ext.cache_weights():
        first, again = (pdb_ext.convgru(**inputs)[0] for _ in range(2))
        inputs["weight_h"].mul_(0.5)
        changed = pdb_ext.convgru(**inputs)[0]
    assert torch.equal(first, again)
    with torch.no_grad(), forced("step"):
        assert torch.equal(changed, pdb_ext.convgru(**inputs)[0]) and not torch.equal(changed, first)


def test_the_rule_takes_cudnn_for_small_layers_and_large_ones(monkeypatch):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    larger = dataclasses.replace(LARGE, in_channels=128, C=128)
    with torch.no_grad():
        for problem, path in ((larger, "aten"), (LARGE, "step"), (PAPER, "aten")):
            with pdb_ext.record_calls() as calls:
                pdb_ext.convgru(**problem.inputs(torch.float16, device=DEVICE))
            assert_path(calls, path)
