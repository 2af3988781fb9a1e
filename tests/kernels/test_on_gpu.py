"""A layer on a real GPU, on every path; skipped without one. `python python/benchmarks/gpu_check.py` runs this.

Every test asserts which path ran (on_gpu.on_every_path), by the ops' records, and for the paper's layer by the kernels
in a profiler's trace, too. The tests that gpu_check.py selects with -k can run alone.
"""

import functools

import pytest
import torch

import pdb_ext
from helpers.on_gpu import (
    DTYPES,
    PAPER,
    PATHS,
    SMALL,
    assert_in_trace,
    captured,
    forced,
    gpu_arguments,
    kernel_names,
    on_every_path,
    on_gpu,
    results_and_gradients,
    roundings,
    skip_without_gpu,
    tf32,
)  # fmt: skip
from helpers.problems import FIXED, Problem, random_problems, rms, run
from pdb_ext import reference

skip_without_gpu()

PROBLEMS = [problem for problem in FIXED + random_problems(12, seed=1) if problem.N > 0]
# Long enough for backward without saved gates to take the steps in chunks.
LONG = Problem(T=12, N=1, in_channels=5, C=6, H=9, W=10, peephole="full", state=True, reverse=True)
EIGHTY = Problem(T=80, N=1, in_channels=16, C=16, H=24, W=24, dilation=2)
PRECISIONS = pytest.mark.parametrize("precision", list(DTYPES))


@functools.cache  # the same for every path, and slow: on the CPU
def exact_results(problem):
    return run(reference.convlstm, problem, problem.inputs())


@on_every_path
@pytest.mark.parametrize("problem", PROBLEMS + [PAPER, LONG], ids=str)
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_float64_equals_the_reference(path, problem, recompute_gates):
    ours = functools.partial(pdb_ext.convlstm, recompute_gates=recompute_gates)
    actual = run(on_gpu(ours), problem, problem.inputs())
    for name, value in exact_results(problem).items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")


def assert_as_accurate_as_pytorch(problem, precision, draws=4):
    """The rule of this project, on the GPU: the RMS error against float64 is at most twice that of PyTorch's operators.

    For the outputs and every gradient. cuDNN takes deterministic algorithms only, as every path of ours does: those for
    the weight gradient are less accurate in float32. Errors are pooled over draws, and results of a few numbers are
    left out: a ratio of few roundings is luck.
    """
    exact, theirs, ours = {}, {}, {}
    for seed in range(draws):
        inputs = problem.inputs(DTYPES[precision], seed)
        doubled = {name: None if value is None else value.double() for name, value in inputs.items()}
        runs = (
            (exact, reference.convlstm, doubled),
            (theirs, reference.convlstm, inputs),
            (ours, pdb_ext.convlstm, inputs),
        )
        with tf32(precision == "tf32"), torch.backends.cudnn.flags(deterministic=True, allow_tf32=precision == "tf32"):
            for results, function, values in runs:
                for name, value in run(on_gpu(function), problem, values).items():
                    results.setdefault(name, []).append(value.double())
    for name in (name for name in exact if exact[name][0].numel() >= 16):
        value, other, mine = (torch.stack(results[name]) for results in (exact, theirs, ours))
        allowed = max(2 * rms(other - value), roundings(precision) * rms(value))
        assert rms(mine - value) <= allowed, f"{name}: RMS error {rms(mine - value):.3g}, allowed {allowed:.3g}"


@on_every_path
@PRECISIONS
@pytest.mark.parametrize("problem", PROBLEMS + [PAPER], ids=str)
def test_error_is_at_most_twice_that_of_pytorch(path, problem, precision):
    assert_as_accurate_as_pytorch(problem, precision)


@on_every_path
@PRECISIONS
def test_errors_do_not_grow_over_eighty_steps(path, precision):
    """Errors of the GPU's own sigmoid and tanh could accumulate."""
    assert_as_accurate_as_pytorch(EIGHTY, precision)


@pytest.mark.parametrize("path", PATHS)
@PRECISIONS
def test_the_trace_shows_the_kernels_of_the_path(path, precision):
    arguments, leaves = gpu_arguments(PAPER, DTYPES[precision])
    with tf32(precision == "tf32"), forced(path) as calls:
        names = kernel_names(lambda: results_and_gradients(arguments, leaves))
    assert [call["op"] for call in calls] == 2 * ["convlstm", "convlstm_backward"]
    assert_in_trace(calls, names)
    persistent = [name for name in names if "persistent_kernel" in name]
    if path == "persistent":
        assert any("Forward" in name for name in persistent) and any("Backward" in name for name in persistent), names
        assert all(call["tensor_cores"] == (precision != "float32") for call in calls)
    else:
        assert not persistent


@on_every_path
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_gradcheck(path, recompute_gates):
    problem = Problem(T=2, N=1, in_channels=2, C=2, H=3, W=4, peephole="full", output_peephole="current", state=True)
    arguments, leaves = gpu_arguments(problem, torch.float64)
    names = [*(k for k, v in arguments.items() if isinstance(v, torch.Tensor)), "h_0", "c_0"]

    def function(*tensors):
        given = dict(zip(names, tensors))
        state = (given.pop("h_0"), given.pop("c_0"))
        output, (_, c_n) = pdb_ext.convlstm(**(arguments | given | {"state": state}), recompute_gates=recompute_gates)
        return output, c_n

    assert torch.autograd.gradcheck(function, leaves)


@on_every_path
@PRECISIONS
def test_the_same_bits_in_every_run(path, precision):
    arguments, leaves = gpu_arguments(PAPER, DTYPES[precision])
    with tf32(precision == "tf32"):
        first = results_and_gradients(arguments, leaves)
        for _ in range(5):
            for one, other in zip(first, results_and_gradients(arguments, leaves)):
                assert torch.equal(one, other)


@on_every_path
def test_a_gradient_may_begin_at_an_odd_address(path):
    """Two halves cannot be read as one there."""
    arguments, leaves = gpu_arguments(PAPER, torch.float16)
    output, _ = pdb_ext.convlstm(**arguments)
    grad = torch.randn_like(output)
    odd = torch.empty(grad.numel() + 1, dtype=grad.dtype, device="cuda")[1:].view(grad.shape).copy_(grad)
    expected = torch.autograd.grad(output, leaves, grad, retain_graph=True)
    for one, other in zip(expected, torch.autograd.grad(output, leaves, odd), strict=True):
        assert torch.equal(one, other)


@on_every_path
def test_capture_in_a_cuda_graph(path):
    arguments, leaves = gpu_arguments(PAPER)
    graph, results = captured(lambda: results_and_gradients(arguments, leaves))
    with torch.no_grad():
        arguments["x"].copy_(torch.randn_like(arguments["x"]))
    graph.replay()
    for one, other in zip(results, results_and_gradients(arguments, leaves)):
        assert torch.equal(one, other)


@on_every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("allowed", [False, True], ids=["plain", "tf32"])
def test_small_enough_for_compute_sanitizer(path, dtype, allowed):
    arguments, leaves = gpu_arguments(SMALL, dtype)
    with tf32(allowed):
        assert all(torch.isfinite(value).all() for value in results_and_gradients(arguments, leaves))
