"""The cell's functions as inexact as a GPU's, over 80 steps (the kernels run on the host).

PyTorch's operators on a GPU also have the errors of expf and tanhf, but divide exactly. So the rule, at most twice
PyTorch's error, is applied to the quotient here: kernels with all three errors against the same kernels with an exact
quotient. test_on_gpu.py applies it on a GPU.
"""

import pytest
import torch

from helpers.cuda_on_host import HostKernels
from helpers.cuda_problems import Problem

SIZES = (80, 1, 3, 4, 5, 6)  # T, N, Cin, C, H, W
DRAWS = 4  # errors are pooled over them: single ones scatter
EXACT, LIKE_PYTORCH, ALL = range(3)


@pytest.fixture
def set_errors():
    library = HostKernels().library
    yield library.pdb_set_device_errors
    library.pdb_set_device_errors(EXACT)


@pytest.mark.slow(but=["float32"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_error_over_80_steps_is_at_most_twice_that_of_pytorch(set_errors, precision):
    """RMS against float64, of the output, the state and every gradient."""
    dtype = getattr(torch, precision.replace("tf32", "float32"))
    kernels = HostKernels(tensor_cores=precision != "float32")
    errors, scale = {LIKE_PYTORCH: {}, ALL: {}}, {}
    for seed in range(DRAWS):
        problem = Problem(SIZES, optional=False, seed=seed)
        exact = problem.reference(dtype, torch.float64)
        for which, sums in errors.items():
            set_errors(which)
            for key, value in problem.run(kernels, dtype).items():
                sums[key] = sums.get(key, 0) + (value.double() - exact[key]).square().mean()
        for key, value in exact.items():
            scale[key] = scale.get(key, 0) + value.square().mean()
    eps = torch.finfo(dtype).eps
    for key, ours in errors[ALL].items():
        assert ours.sqrt() <= max(2 * errors[LIKE_PYTORCH][key].sqrt(), 2 * eps * scale[key].sqrt()), key


def test_the_functions_are_inexact_when_they_are_asked_to_be(set_errors):
    problem, kernels = Problem((2, 1, 3, 4, 5, 6)), HostKernels()
    outputs = []
    for which in (EXACT, LIKE_PYTORCH, ALL):
        set_errors(which)
        outputs.append(problem.run(kernels, torch.float32)["output"])
    for one, other in ((0, 1), (1, 2)):
        assert 2**-26 < (outputs[one] - outputs[other]).abs().max() < 2**-18
