"""The CUDA kernels against the reference, without a GPU: their own text runs on the host (tests/kernels/cuda_host)."""

import ctypes
import itertools

import pytest
import torch

from helpers.cuda_on_host import DTYPES, MISSING, NO_FAULT, HostKernels
from helpers.cuda_problems import CASES, TENSOR_CORE_CASES, Problem, check_errors
from helpers.paths import CUDA
from helpers.tf32 import tf32_reference


@pytest.fixture(scope="session")
def kernels():
    return HostKernels()


@pytest.fixture(scope="session")
def tensor_cores():
    return HostKernels(tensor_cores=True)


# Folders of csrc/cuda whose barriers are removed by test_ops.py and test_persistent.py.
OTHER_BARRIERS = ("gates", "persistent")

# More than one chunk of channels and of pixels, so that every barrier matters.
BARRIER_CASE = ((2, 1, 17, 9, 5, 9), 3)


@pytest.mark.parametrize("name", CASES)
def test_double_equals_the_reference(kernels, name):
    sizes, options = CASES[name]
    problem = Problem(sizes, **options)
    expected = problem.reference(torch.float64)
    actual = problem.run(kernels, torch.float64)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != torch.float64], ids=str)
@pytest.mark.parametrize("name", ["odd", "above the tile", "Shi peephole", "more channels than a chunk"])
def test_error_is_at_most_twice_that_of_pytorch(kernels, name, dtype):
    sizes, options = CASES[name]
    check_errors(Problem(sizes, **options), kernels, dtype)


@pytest.mark.slow(but=["one pixel-torch.float16", "odd-torch.float16", "odd-torch.bfloat16"])
@pytest.mark.parametrize(
    "name, dtype",
    [
        *((name, torch.float16) for name in TENSOR_CORE_CASES),
        # BFloat16 differs in how words are packed and multiplied, not in their places.
        *((name, torch.bfloat16) for name in ("odd", "Shi peephole")),
    ],
    ids=str,
)
def test_tensor_core_error_is_at_most_twice_that_of_pytorch(tensor_cores, name, dtype):
    sizes, options = TENSOR_CORE_CASES[name]
    check_errors(Problem(sizes, **options), tensor_cores, dtype)


@pytest.mark.slow(but=["odd"])
@pytest.mark.parametrize("name", TENSOR_CORE_CASES)
def test_tf32_error_is_at_most_twice_that_of_pytorch(tensor_cores, name):
    sizes, options = TENSOR_CORE_CASES[name]
    problem = Problem(sizes, **options)

    with tf32_reference():
        check_errors(problem, tensor_cores, torch.float32)


def test_tf32_is_used_only_where_it_is_allowed(kernels, tensor_cores):
    problem = Problem(CASES["odd"][0])
    exact, tf32 = (problem.run(k, torch.float32)["output"] for k in (kernels, tensor_cores))
    assert not torch.equal(exact, tf32)
    exact, double = (problem.run(k, torch.float64)["output"] for k in (kernels, tensor_cores))
    assert torch.equal(exact, double)


def test_inference_equals_training(kernels):
    sizes, options = CASES["odd"]
    problem = Problem(sizes, **options)
    tensors, _, _ = problem.to(torch.float32)
    trained = kernels.forward(*tensors, *problem.options, save=True)
    inferred = kernels.forward(*tensors, *problem.options, save=False)
    assert torch.equal(trained[0], inferred[0]) and torch.equal(trained[1], inferred[1])


@pytest.mark.slow(but=["kernels-torch.float64-odd", "tensor_cores-torch.float16-nothing optional, T=1"])
@pytest.mark.parametrize("name", ["odd", "Shi peephole", "nothing optional, T=1", "above the tile"])
@pytest.mark.parametrize("which, dtype", [("kernels", torch.float64), ("tensor_cores", torch.float16)], ids=str)
def test_gates_computed_again_give_the_same_bits(which, dtype, name, request):
    sizes, options = CASES[name]
    problem, kernels = Problem(sizes, **options), request.getfixturevalue(which)
    saved, recomputed = (problem.run(kernels, dtype, recompute) for recompute in (False, True))
    for key, value in saved.items():
        assert torch.equal(recomputed[key], value), key


@pytest.mark.parametrize("which", ["kernels", "tensor_cores"])
def test_any_order_of_threads_gives_the_same_bits(which, request):
    """A race would show as a difference: the emulation draws the order of the threads anew between any two barriers."""
    sizes, options = CASES["odd"]
    problem, kernels = Problem(sizes, **options), request.getfixturevalue(which)
    results = []
    for seed in range(2):
        kernels.library.pdb_set_seed(seed)
        results.append(problem.run(kernels, torch.float32))
    for key in results[0]:
        assert all(torch.equal(results[0][key], other[key]) for other in results[1:]), key


@pytest.mark.slow
def test_no_barrier_is_missing_unnoticed(kernels, tensor_cores):
    """Proof of the emulation: without any one __syncthreads() of the kernels the results are wrong."""
    problem = Problem(*BARRIER_CASE)
    sites = [
        (path.relative_to(CUDA).as_posix().encode(), number)
        for path in sorted(CUDA.rglob("*.*"))
        if path.relative_to(CUDA).parts[0] not in OTHER_BARRIERS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "__syncthreads()" in line
    ]
    assert {site.split(b"/")[0] for site, _ in sites} == {b"step"}
    for site in sites:
        chosen = tensor_cores if b"mma" in site[0] else kernels
        expected = problem.run(chosen, torch.float32)
        kernels.library.pdb_inject(MISSING, *site)
        try:
            actual = problem.run(chosen, torch.float32)
        finally:
            kernels.library.pdb_inject(NO_FAULT, None, 0)
        assert any(not torch.equal(actual[key], expected[key]) for key in expected), site


def test_a_dilation_beyond_the_image_cannot_overflow(kernels):
    sizes, _ = CASES["dilation beyond the image"]
    one, other = (Problem(sizes, dilation=dilation).run(kernels, torch.float64) for dilation in (5, 2**62))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_missing_cotangents_are_zeros(kernels):
    sizes, options = CASES["odd"]
    problem = Problem(sizes, **options)
    tensors, grad_output, grad_c_n = problem.to(torch.float64)
    saved = kernels.forward(*tensors, *problem.options, save=True)
    arguments = (*tensors, saved, *problem.options)
    zeros = torch.zeros_like
    for given, full in [
        ((grad_output, None), (grad_output, zeros(grad_c_n))),
        ((None, grad_c_n), (zeros(grad_output), grad_c_n)),
    ]:
        for one, other in zip(kernels.backward(*given, *arguments), kernels.backward(*full, *arguments)):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_emulated_rounding_is_the_hardware_rounding(kernels, dtype):
    """The emulation's own half types, over every exponent, ties, subnormals, overflow and NaN."""
    mantissas = torch.tensor([1, 1 + 2**-11, 1 + 2**-10, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 1.3, 2 - 2**-20])
    values = torch.cat([s * mantissas * 2.0**e for s, e in itertools.product((1, -1), range(-40, 40))])
    values = torch.cat([values, torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 65519.0, 65520.0, 1e38, -1e-45])])
    bits = torch.empty(len(values), dtype=torch.int16)
    for i, value in enumerate(values.tolist()):
        address = ctypes.c_void_p(bits.data_ptr() + 2 * i)
        kernels.library.pdb_narrow(int(dtype == torch.float16), ctypes.c_float(value), address)
    assert torch.equal(bits, values.to(dtype).view(torch.int16))
