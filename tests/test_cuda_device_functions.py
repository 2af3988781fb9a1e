"""sigmoid and tanh as inexact as a GPU's, over 80 steps: the error rule still holds (the kernels run on the host)."""

import ctypes

import pytest
import torch

from cuda_on_host import HostKernels
from test_cuda_on_host import Problem, Tf32Convolution, conv2d, reference

SIZES = (80, 1, 3, 4, 5, 6)  # T, N, Cin, C, H, W
DRAWS = 4  # errors are pooled over them: single ones scatter


@pytest.fixture
def inexact():
    """Kernels whose functions are off by as much as the CUDA programming guide allows, on tensor cores or not."""
    kernels = [HostKernels(tensor_cores=on) for on in (False, True)]
    kernels[0].library.pdb_set_device_errors(ctypes.c_bool(True))
    yield kernels
    kernels[0].library.pdb_set_device_errors(ctypes.c_bool(False))


def use_tf32(monkeypatch):
    def convolution(x, weight, bias=None, *, padding, dilation):
        if x.dtype != torch.float32:
            return conv2d(x, weight, bias, padding=padding, dilation=dilation)
        return Tf32Convolution.apply(x, weight, bias, padding, dilation)

    monkeypatch.setattr(reference, "conv2d", convolution)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_error_over_80_steps_is_at_most_twice_that_of_pytorch(inexact, precision, monkeypatch):
    """RMS against float64, of the output, the state and every gradient."""
    dtype = getattr(torch, precision.replace("tf32", "float32"))
    if precision == "tf32":
        use_tf32(monkeypatch)
    ours, theirs, scale = {}, {}, {}
    for seed in range(DRAWS):
        problem = Problem(SIZES, optional=False, seed=seed)
        exact, pytorch = problem.reference(dtype, torch.float64), problem.reference(dtype)
        actual = problem.run(inexact[precision != "float32"], dtype)
        for key, value in exact.items():
            ours[key] = ours.get(key, 0) + (actual[key].double() - value).square().mean()
            theirs[key] = theirs.get(key, 0) + (pytorch[key].double() - value).square().mean()
            scale[key] = scale.get(key, 0) + value.square().mean()
    eps = torch.finfo(dtype).eps
    for key in ours:
        assert ours[key].sqrt() <= max(2 * theirs[key].sqrt(), 2 * eps * scale[key].sqrt()), key


def test_the_functions_are_inexact_when_they_are_asked_to_be(inexact):
    problem = Problem((2, 1, 3, 4, 5, 6))
    off = problem.run(inexact[0], torch.float32)["output"]
    inexact[0].library.pdb_set_device_errors(ctypes.c_bool(False))
    exact = problem.run(inexact[0], torch.float32)["output"]
    difference = (off - exact).abs().max()
    assert 2**-26 < difference < 2**-18
