"""Shared by tests on a real GPU: checks of the path that ran, arguments on the GPU, kernel names in a profile."""

import contextlib
import functools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import pdb_ext
from helpers.problems import Problem
from pdb_ext import _library, reference

DEVICE = "cuda"
PATHS = ("step", "persistent", "aten")
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PAPER = Problem(T=5, N=1, in_channels=32, C=32, H=60, W=60, dilation=2)
SMALL = Problem(T=2, N=2, in_channels=9, C=9, H=7, W=35, peephole="full", state=True, dilation=2)


def skip_without_gpu() -> None:
    """For the top of a file of tests."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU", allow_module_level=True)
    if "cuda" not in _library.NATIVE_DEVICES:
        pytest.skip("needs a build with CUDA kernels", allow_module_level=True)


@contextlib.contextmanager
def forced(path: str, must_fit: bool = True):
    """Computes everything on this path, and asserts that for every call the ops recorded. Yields those records.

    Where a layer has no room on the chip, forcing the persistent path raises; the test is then skipped, unless it
    must fit.
    """
    with pytest.MonkeyPatch.context() as patch, pdb_ext.record_calls() as calls:
        patch.setenv("PDB_EXT_CUDA_PATH", path)
        try:
            yield calls
        except RuntimeError as error:
            if "PDB_EXT_CUDA_PATH=persistent" not in str(error) or (must_fit and is_large_gpu()):
                raise
            pytest.skip(str(error).split("\n")[0][:200])
    assert_path(calls, path)


def on_every_path(test):
    """The test on every path, forced.

    A single problem must fit on the chip. In a list the smallest one fits, and so does the paper's layer, except in
    float64, the precision of tests that name none.
    """

    @functools.wraps(test)
    def run(path, **arguments):
        problem = arguments.get("problem", Problem())
        with forced(path, must_fit=problem == Problem() or (problem == PAPER and "precision" in arguments)):
            test(path, **arguments)

    return pytest.mark.parametrize("path", PATHS)(run)


def is_large_gpu() -> bool:
    """Whether there is a multiprocessor for each of the 128 tiles of the paper's module, and sm_90's shared memory."""
    properties = torch.cuda.get_device_properties(0)
    return properties.multi_processor_count >= 128 and properties.major in (9, 10)


def assert_path(calls: list[dict], path: str) -> None:
    """Asserts that native ops were called, all on this path of the GPU."""
    assert calls, "no native op was called"
    assert {(call["device"], call["path"]) for call in calls} == {("cuda", path)}, calls


@contextlib.contextmanager
def tf32(allowed: bool):
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def roundings(precision: str) -> float:
    """The relative error that is always allowed.

    TF32 operands have 11 significant bits, whatever the error of cuDNN is, which may choose float32 for small sizes.
    """
    return 2 * (2**-10 if precision == "tf32" else torch.finfo(DTYPES[precision]).eps)


def on_gpu(function):
    """Runs the function on the GPU; arguments and results are on the CPU."""

    def moved(state=None, **arguments):
        arguments = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        state = None if state is None else tuple(t.to(DEVICE) for t in state)
        output, (h_n, c_n) = function(state=state, **arguments)
        return output.cpu(), (h_n.cpu(), c_n.cpu())

    return moved


def gpu_arguments(problem: Problem, dtype: torch.dtype = torch.float32) -> tuple[dict, list[torch.Tensor]]:
    """Arguments of pdb_ext.convlstm on the GPU, all requiring gradients, and their list."""
    inputs = {k: v.to(DEVICE).requires_grad_() for k, v in problem.inputs(dtype).items() if v is not None}
    state = (inputs["h_0"], inputs["c_0"]) if problem.state else None
    arguments = {k: v for k, v in inputs.items() if k not in ("h_0", "c_0")}
    return arguments | {"state": state} | problem.options(), list(inputs.values())


def results_and_gradients(arguments: dict, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    output, (_, c_n) = pdb_ext.convlstm(**arguments)
    return [output, c_n, *torch.autograd.grad([output, c_n], leaves, [output.detach(), c_n.detach()])]


def pyramid_results(module: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y, _ = module(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))]


def reference_convlstm(*arguments, checkpoint_every=None, recompute_gates=False, implementation="auto", **options):
    """For pdb_ext.modules.padded.convlstm, whose layers are then PyTorch's."""
    return reference.convlstm(*arguments, **options)


def captured(function):
    """-> a CUDA graph of the function, which was warmed up on another stream, and the results that a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def kernel_names(function) -> set[str]:
    """What ran on the GPU, as the profiler names it."""
    function()  # so that one-time work is not in the trace
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        function()
        torch.cuda.synchronize()
    return {event.name for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA}


def assert_in_trace(calls: list[dict], names: set[str]) -> None:
    """Asserts that the kernels which the calls report are among those that ran."""
    for call in calls:
        assert any(call["kernel"] in name for name in names), f"{call} ran {sorted(names)}"
