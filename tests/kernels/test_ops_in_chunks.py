"""Backward without saved gates over long sequences: a few steps at a time, in memory that does not grow with them."""

import ctypes

import pytest
import torch

from helpers.cuda_on_host import DTYPES, RESIDENT_BLOCKS, Arguments, HostKernels
from helpers.cuda_problems import Problem, check_errors
from helpers.paths import ROOT

# T, N, Cin, C, H, W. Chunks have four steps; two chunks and fewer are not worth it.
CASES = {
    "a short one at the beginning": ((13, 1, 3, 4, 5, 6), {"dilation": 2}),
    "backward in time": ((11, 2, 2, 3, 4, 9), {"reverse": True, "peephole_current": True}),
    "whole chunks, nothing optional": ((12, 1, 2, 3, 4, 5), {"optional": False}),
}


@pytest.fixture(scope="session")
def kernels():
    return HostKernels()


@pytest.mark.parametrize("name", CASES)
def test_double_equals_the_reference(kernels, name):
    sizes, options = CASES[name]
    problem = Problem(sizes, **options)
    actual = problem.run(kernels, torch.float64, recompute=True)
    for key, value in problem.reference(torch.float64).items():
        torch.testing.assert_close(actual[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow(but=["False-torch.float32-step", "False-torch.float32-persistent", "True-torch.bfloat16-step"])
@pytest.mark.parametrize("persistent", [False, True], ids=["step", "persistent"])
@pytest.mark.parametrize(
    "tensor_cores, dtype", [(False, torch.float32), (True, torch.float16), (True, torch.bfloat16)], ids=str
)
def test_error_is_at_most_twice_that_of_pytorch(tensor_cores, dtype, persistent):
    """Sums over the chunks are in float32, too, until the last one."""
    sizes, options = CASES["backward in time"]
    kernels = HostKernels(tensor_cores=tensor_cores, persistent=persistent)
    check_errors(Problem(sizes, **options), kernels, dtype, recompute=True)


def test_persistent_layers_save_memory_in_the_same_way():
    """Forward is one launch; backward over this many steps takes three, unless the gates were saved."""
    kernels = HostKernels(persistent=True)
    problem = Problem((11, 1, 2, 3, 4, 5))
    for recompute, launches in ((False, 2), (True, 4)):
        kernels.library.pdb_cooperative_launches()
        actual = problem.run(kernels, torch.float64, recompute)
        assert kernels.library.pdb_cooperative_launches() == launches
        for key, value in problem.reference(torch.float64).items():
            torch.testing.assert_close(actual[key], value)


def workspace(kernels, T, side, dtype, gates):
    """Bytes that backward of one layer of 32 channels works in."""
    kernels.library.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    layer = Arguments(T, 1, 32, 32, side, side, 3, 1, False, False, True, True)
    return 4 * kernels.library.pdb_backward_workspace(DTYPES[dtype], ctypes.byref(layer), int(gates))


def test_the_workspace_does_not_grow_with_the_sequence(kernels):
    short, long = (workspace(kernels, T, 60, torch.float32, gates=False) for T in (11, 1000))
    assert short == long < workspace(kernels, 11, 60, torch.float32, gates=True)


def bytes_saved_by_eager(T, dtype, side=12, channels=2):
    """Bytes that autograd keeps of the eager loop, output included, per value of x (as many channels in as out)."""
    from peers import naive

    x = torch.zeros(T, 1, channels, side, side, dtype=dtype, requires_grad=True)
    weights = [torch.zeros(4 * channels, channels, 3, 3, dtype=dtype, requires_grad=True) for _ in range(2)]
    weights.append(torch.zeros(4 * channels, dtype=dtype, requires_grad=True))
    storages = {}  # tensors, so that no address is used twice

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        keep(naive(x, *weights, 1, False))
    of_arguments = {t.untyped_storage().data_ptr() for t in (x, *weights)}
    return sum(t.untyped_storage().nbytes() for at, t in storages.items() if at not in of_arguments) / x.numel()


# (dtype, steps, whether gates are saved) -> our memory as a share of eager's. docs/cuda.md quotes them.
MEMORY = {
    (torch.float32, 80, False): 0.36,
    (torch.float32, 80, True): 1.15,
    (torch.bfloat16, 80, False): 0.48,
    (torch.bfloat16, 80, True): 1.31,
    (torch.bfloat16, 5, True): 1.84,
    (torch.bfloat16, 9, False): 1.13,
    (torch.bfloat16, 20, False): 0.73,
}


@pytest.mark.parametrize("problem", MEMORY, ids=str)
def test_memory_of_training(kernels, problem, monkeypatch):
    """A layer of the paper's size, counted: ours at its peak, eager after forward, both with the gradient of x."""
    monkeypatch.syspath_prepend(str(ROOT / "python/benchmarks"))
    (dtype, T, gates), channels, side = problem, 32, 60
    values, size = T * channels * side**2, dtype.itemsize
    saved = size + 4 + (4 * size if gates else 0)  # output, cells, gates
    ours = values * saved + workspace(kernels, T, side, dtype, gates)
    eager = values * bytes_saved_by_eager(T, dtype)
    share = (ours + values * size) / (eager + values * size)
    assert share == pytest.approx(MEMORY[problem], abs=0.01)
