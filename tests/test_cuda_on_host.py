"""The CUDA kernels against the reference, without a GPU: their own text runs on the host (tests/cuda_host)."""

import ctypes
import itertools

import pytest
import torch

from cuda_on_host import DTYPES, MISSING, NO_FAULT, ROOT, HostKernels
from pdb_ext import reference
from tf32 import tf32_reference

NAMES = ["x", "weight_x", "weight_h", "bias", "peephole", "h_0", "c_0"]


@pytest.fixture(scope="session")
def kernels():
    return HostKernels()


@pytest.fixture(scope="session")
def tensor_cores():
    return HostKernels(tensor_cores=True)


class Problem:
    """Random arguments of one call, in float64, and the reference's output and gradients for a random cotangent."""

    def __init__(self, sizes, kernel=3, dilation=1, reverse=False, peephole_current=False, optional=True, seed=0):
        T, N, Cin, C, H, W = sizes
        generator = torch.Generator().manual_seed(seed)
        self.options = (dilation, reverse, peephole_current)

        def normal(*shape, scale=1.0):
            return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

        scale = (Cin + C) ** -0.5 / kernel
        self.tensors = [normal(T, N, Cin, H, W), normal(4 * C, Cin, kernel, kernel, scale=scale)]
        self.tensors += [normal(4 * C, C, kernel, kernel, scale=scale)]
        state = (N, C, H, W)
        # A peephole of one weight per pixel, as the released model's, is expanded over the channels with stride 0.
        self.tensors += [normal(4 * C), normal(3, 1, H, W).expand(3, C, H, W), normal(*state), normal(*state)]
        if not optional:
            self.tensors[3:] = [None] * 4
        self.grad_output, self.grad_c_n = normal(T, *state), normal(*state)

    def to(self, dtype):
        """Arguments and cotangents as the kernels get them: contiguous, but for the expanded peephole."""
        tensors = [None if t is None else t.to(dtype) for t in self.tensors]
        return tensors, self.grad_output.to(dtype), self.grad_c_n.to(dtype)

    def reference(self, dtype, arithmetic=None):
        """Output, c_n and gradients by the reference of the arguments rounded to dtype, computed in `arithmetic`."""
        arithmetic = arithmetic or dtype
        tensors, grad_output, grad_c_n = self.to(dtype)
        leaves = [None if t is None else t.to(arithmetic).requires_grad_() for t in tensors]
        x, weight_x, weight_h, bias, peephole, h_0, c_0 = leaves
        dilation, reverse, peephole_current = self.options
        output, (_, c_n) = reference.convlstm(
            x, weight_x, weight_h, bias, peephole, None if h_0 is None else (h_0, c_0), dilation=dilation,
            reverse=reverse, output_peephole="current" if peephole_current else "previous",
        )  # fmt: skip
        cotangents = [grad_output.to(arithmetic), grad_c_n.to(arithmetic)]
        grads = torch.autograd.grad([output, c_n], [t for t in leaves if t is not None], cotangents)
        names = [name for name, t in zip(NAMES, leaves) if t is not None]
        return {"output": output.detach(), "c_n": c_n.detach(), **{f"grad {n}": g for n, g in zip(names, grads)}}

    def run(self, kernels, dtype, recompute=False):
        """The same by the CUDA kernels."""
        tensors, grad_output, grad_c_n = self.to(dtype)
        saved = kernels.forward(*tensors, *self.options, save=True, recompute=recompute)
        grads = kernels.backward(grad_output, grad_c_n, *tensors, saved, *self.options)
        result = {"output": saved[0], "c_n": saved[1]}
        return result | {f"grad {n}": g for n, g, t in zip(NAMES, grads, tensors) if t is not None}


# T, N, Cin, C, H, W; then options. Sizes lie below, at and above the tile (32 x 4 pixels), the channels of a block
# (8, 16, 32) and the pixels of a split (2048); kernels 9 and dilation 40 take the paths for large weights and halos.
CASES = {
    "one pixel": ((1, 1, 1, 1, 1, 1), {}),
    "tile": ((2, 1, 4, 8, 4, 32), {}),
    "odd": ((3, 2, 3, 5, 7, 6), {"dilation": 2}),
    "above the tile": ((2, 1, 9, 17, 5, 33), {"reverse": True}),
    "Shi peephole": ((3, 2, 2, 3, 6, 5), {"peephole_current": True, "reverse": True}),
    "nothing optional": ((3, 1, 3, 4, 5, 9), {"optional": False, "dilation": 3}),
    "nothing optional, T=1": ((1, 2, 3, 4, 5, 9), {"optional": False, "reverse": True}),
    "1x1 kernel": ((2, 1, 3, 4, 5, 9), {"kernel": 1}),
    "5x5 kernel": ((2, 1, 3, 2, 9, 13), {"kernel": 5, "dilation": 2}),
    "kernel beyond one chunk": ((2, 1, 2, 2, 9, 11), {"kernel": 9}),
    "halo beyond shared memory": ((2, 1, 2, 3, 43, 45), {"dilation": 40}),
    "dilation beyond the image": ((2, 1, 2, 3, 5, 4), {"dilation": 1000}),
    "split sums": ((2, 2, 1, 1, 33, 70), {}),
    "more channels than a chunk": ((2, 1, 20, 36, 3, 3), {}),
}


# Files with kernels of another path, whose barriers another test removes.
OTHER_BARRIERS = ("gates.cu",)  # test_cuda_ops_on_host.py

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


def check_errors(problem, kernels, dtype, recompute=False):
    """The rule of the tolerances: against float64 on the same rounded arguments, PyTorch's own error in dtype, doubled."""
    exact = problem.reference(dtype, torch.float64)
    pytorch = problem.reference(dtype)
    actual = problem.run(kernels, dtype, recompute)
    for key, value in exact.items():
        allowed = 2 * (pytorch[key].double() - value).abs().max()
        # PyTorch is lucky in small sums now and then; one rounding of the result itself is always allowed.
        allowed += torch.finfo(dtype).eps * value.abs().max()
        assert (actual[key].double() - value).abs().max() <= allowed, key


@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != torch.float64], ids=str)
@pytest.mark.parametrize("name", ["odd", "above the tile", "Shi peephole", "more channels than a chunk"])
def test_error_is_at_most_twice_that_of_pytorch(kernels, name, dtype):
    sizes, options = CASES[name]
    check_errors(Problem(sizes, **options), kernels, dtype)


# Depth in one, two and three chunks; output channels in one and two blocks; tiles cut off by the image; T = 1; a
# halo too large for the tensor-core kernels, so that the others take over.
TENSOR_CORE_CASES = {
    "one pixel": CASES["one pixel"],
    "odd": CASES["odd"],
    "Shi peephole": CASES["Shi peephole"],
    "nothing optional": CASES["nothing optional, T=1"],
    "5x5 kernel": CASES["5x5 kernel"],
    "two groups of channels": ((2, 1, 40, 34, 2, 3), {"reverse": True}),
    "largest halo": ((2, 1, 2, 3, 9, 17), {"dilation": 8}),
    "halo beyond shared memory": ((2, 1, 2, 3, 9, 17), {"dilation": 9}),
}


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


def test_no_barrier_is_missing_unnoticed(kernels, tensor_cores):
    """What the emulation is worth: without any one __syncthreads() of the kernels the results are wrong."""
    problem = Problem(*BARRIER_CASE)
    sites = [
        (path.name.encode(), number)
        for path in sorted(ROOT.glob("csrc/cuda/*"))
        if not path.name.startswith("persistent")  # tests/test_cuda_persistent.py
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "__syncthreads()" in line and path.name not in OTHER_BARRIERS
    ]
    assert sites
    for site in sites:
        chosen = tensor_cores if site[0].startswith(b"mma") else kernels
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
