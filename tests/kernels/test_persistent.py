"""The persistent CUDA kernels without a GPU: all blocks at once, halo flags under a weak memory model."""

import re

import pytest
import torch

from helpers.cuda_on_host import MISSING, NO_FAULT, RELAXED, RESIDENT_BLOCKS, HostKernels
from helpers.cuda_problems import CASES, TENSOR_CORE_CASES, Problem, check_errors
from helpers.paths import ROOT
from helpers.tf32 import tf32_reference


@pytest.fixture(scope="session")
def kernels():
    return HostKernels(persistent=True)


@pytest.fixture(scope="session")
def tensor_cores():
    return HostKernels(tensor_cores=True, persistent=True)


CUDA_ERROR_ASSERT = 710

# T, N, Cin, C, H, W: every kind of neighbourhood, and several groups of channels (16 a block in double, else 32).
PERSISTENT_CASES = CASES | {
    "3 x 3 tiles": ((4, 1, 3, 4, 17, 24), {"dilation": 2}),
    "ring over two tiles": ((3, 1, 2, 3, 33, 18), {"dilation": 9, "reverse": True}),
    "two groups of channels": ((4, 2, 5, 20, 9, 10), {"reverse": True}),
}

# Enough channels of x that their weight and the recurrent one alternate in shared memory, in more than one part; and
# more steps than are done at once.
TURNS_CASE = ((10, 1, 56, 8, 9, 9), {"reverse": True})

# Sizes at which shared memory cannot hold the gate gradients of the channels in double, or the window at all.
LAUNCHES = {
    "above the tile": 1,
    "more channels than a chunk": 1,
    "two groups of channels": 1,
    "halo beyond shared memory": 0,
}


@pytest.mark.parametrize("name", PERSISTENT_CASES)
def test_double_equals_the_reference(kernels, name):
    sizes, options = PERSISTENT_CASES[name]
    problem = Problem(sizes, **options)
    kernels.library.pdb_cooperative_launches()
    actual = problem.run(kernels, torch.float64)
    assert kernels.library.pdb_cooperative_launches() == LAUNCHES.get(name, 2)
    for key, value in problem.reference(torch.float64).items():
        torch.testing.assert_close(actual[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["odd", "Shi peephole", "two groups of channels"])
def test_error_is_at_most_twice_that_of_pytorch(kernels, name, dtype):
    sizes, options = PERSISTENT_CASES[name]
    check_errors(Problem(sizes, **options), kernels, dtype)


@pytest.mark.slow(but=["one pixel", "odd"])
@pytest.mark.parametrize("name", [name for name in TENSOR_CORE_CASES if name != "5x5 kernel"])
def test_tensor_core_error_is_at_most_twice_that_of_pytorch(tensor_cores, name):
    sizes, options = TENSOR_CORE_CASES[name]
    tensor_cores.library.pdb_cooperative_launches()
    check_errors(Problem(sizes, **options), tensor_cores, torch.float16)
    assert tensor_cores.library.pdb_cooperative_launches() == 2


@pytest.mark.slow(but=["kernels-torch.float32", "kernels-torch.float64"])
@pytest.mark.parametrize(
    "which, dtype",
    [
        ("kernels", torch.float64),
        ("kernels", torch.float32),
        ("tensor_cores", torch.float16),
        ("tensor_cores", torch.float32),
    ],
    ids=str,
)
def test_weights_that_take_turns(which, dtype, request):
    kernels, ((T, N, Cin, *sizes), options) = request.getfixturevalue(which), TURNS_CASE
    problem = Problem((T, N, 2 * Cin if dtype == torch.float16 else Cin, *sizes), **options)
    kernels.library.pdb_cooperative_launches()
    if which == "tensor_cores" and dtype == torch.float32:
        with tf32_reference():
            check_errors(problem, kernels, dtype)
    elif dtype == torch.float64:
        actual = problem.run(kernels, dtype)
        for key, value in problem.reference(dtype).items():
            torch.testing.assert_close(actual[key], value, msg=lambda text, key=key: f"{key}: {text}")
    else:
        check_errors(problem, kernels, dtype)
    assert kernels.library.pdb_cooperative_launches() == 2


# Neighbours on all sides, two groups of channels in double (whose backward does not fit), more steps than slots.
FLAG_CASE = ((4, 1, 17, 17, 9, 17), {"reverse": True})


@pytest.mark.slow(but=["kernels-torch.float32", "kernels-torch.float64"])
@pytest.mark.parametrize(
    "which, dtype", [("kernels", torch.float32), ("kernels", torch.float64), ("tensor_cores", torch.bfloat16)], ids=str
)
def test_any_schedule_of_blocks_and_threads_gives_the_same_bits(which, dtype, request):
    problem, kernels = Problem(FLAG_CASE[0], **FLAG_CASE[1]), request.getfixturevalue(which)
    results = []
    for seed in range(3 if which == "kernels" else 2):
        kernels.library.pdb_set_seed(seed)
        results.append(problem.run(kernels, dtype))
    for key in results[0]:
        assert all(torch.equal(results[0][key], other[key]) for other in results[1:]), key


def synchronisation():
    """Every barrier, publish and await of the persistent kernels, and how it may be faulty."""
    for path in sorted(ROOT.glob("csrc/cuda/persistent/*")):
        place = path.relative_to(ROOT / "csrc/cuda").as_posix()
        # What stands between the layers of a chain: test_ops_pyramid.py.
        text = path.read_text().split("void __launch_bounds__(kPersistentThreads, 1)")[0]
        for number, line in enumerate(text.splitlines(), 1):
            code = "" if line.startswith("#define") else line.split("//")[0]
            if "__syncthreads()" in code or "PDB_AWAIT(" in code:
                yield place, number, MISSING
            if "PDB_AWAIT(" in code or "PDB_PUBLISH(" in code:
                yield place, number, RELAXED


def run_faulty(kernels, problem, fault, name, line):
    kernels.library.pdb_inject(fault, name.encode(), line)
    try:
        return problem.run(kernels, torch.float32)
    finally:
        kernels.library.pdb_inject(NO_FAULT, None, 0)


@pytest.mark.slow
@pytest.mark.parametrize("site", list(synchronisation()), ids=str)
def test_no_synchronisation_is_missing_unnoticed(kernels, site):
    """Proof of the emulation: without any one of them, or without its release or acquire, the results are wrong."""
    name, line, fault = site
    source = (ROOT / "csrc/cuda" / name).read_text().splitlines()[line - 1]
    assert any(is_seen(kernels, Problem(sizes, **options), site) for sizes, options in (FLAG_CASE, TURNS_CASE)), source


def is_seen(kernels, problem, site):
    name, line, fault = site
    expected = problem.run(kernels, torch.float32)
    for seed in range(4):
        kernels.library.pdb_set_seed(seed)
        actual = run_faulty(kernels, problem, fault, name, line)
        if any(not torch.equal(actual[key], expected[key]) for key in expected):
            return True
    return False


def publish_of_a_step():
    """File and line."""
    return next(site for site in synchronisation() if site[2] == RELAXED and "loop" in site[0])[:2]


def starved(layer, step, way):
    """The message of a launch that gave up."""
    where = rf"layer {layer}, step:{step}: persistent_kernel, {way}"
    return rf"pdb_ext: persistent launch, {where}: block: \[\d+,0,0\], thread: \[\d+,0,0\] Assertion"


@pytest.mark.slow(but=["0"])
@pytest.mark.parametrize("seed", range(3))
def test_a_wait_without_end_ends_the_launch(kernels, capfd, seed):
    """Without the publishes: the message names layer and step, the launch fails, and the next launch is right again."""
    problem = Problem(FLAG_CASE[0])
    expected = problem.run(kernels, torch.float32)
    kernels.library.pdb_set_seed(seed)
    with pytest.raises(AssertionError, match=f"{CUDA_ERROR_ASSERT} == pdb_forward"):
        run_faulty(kernels, problem, MISSING, *publish_of_a_step())
    assert re.search(starved(0, 1, "forward"), capfd.readouterr().err)
    assert all(torch.equal(value, expected[key]) for key, value in problem.run(kernels, torch.float32).items())


@pytest.mark.parametrize("recompute", [False, True], ids=["all steps at once", "chunks"])
def test_a_wait_without_end_in_backward_names_the_step_of_the_whole_sequence(kernels, capfd, recompute):
    """The last step needs no flag; the one before it is the first to wait, even if a launch has only four steps."""
    T = 10
    problem = Problem((T, 1, 2, 3, 9, 17))
    tensors, *cotangents = problem.to(torch.float32)
    saved = kernels.forward(*tensors, *problem.options, save=True, recompute=recompute)
    file, line = publish_of_a_step()
    kernels.library.pdb_inject(MISSING, file.encode(), line)
    try:
        with pytest.raises(AssertionError, match=f"{CUDA_ERROR_ASSERT} == pdb_backward"):
            kernels.backward(*cotangents, *tensors, saved, *problem.options)
    finally:
        kernels.library.pdb_inject(NO_FAULT, None, 0)
    assert re.search(starved(0, T - 2, "backward"), capfd.readouterr().err)


def test_what_is_not_resident_takes_single_steps(kernels):
    """As many blocks as the GPU takes at once, and one more image."""
    tiles = 12
    for batch, cooperative in ((RESIDENT_BLOCKS // tiles, 2), (RESIDENT_BLOCKS // tiles + 1, 0)):
        problem = Problem((2, batch, 1, 1, 17, 25))
        kernels.library.pdb_cooperative_launches()
        actual = problem.run(kernels, torch.float64)
        assert kernels.library.pdb_cooperative_launches() == cooperative
        for key, value in problem.reference(torch.float64).items():
            torch.testing.assert_close(actual[key], value)


def test_inference_equals_training(kernels):
    problem = Problem(CASES["odd"][0])
    tensors, _, _ = problem.to(torch.float32)
    trained = kernels.forward(*tensors, *problem.options, save=True)
    inferred = kernels.forward(*tensors, *problem.options, save=False)
    assert torch.equal(trained[0], inferred[0]) and torch.equal(trained[1], inferred[1])
