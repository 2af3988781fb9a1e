"""`pdb_convlstm` on CUDA (csrc/ops/cuda/pdb_convlstm.cpp) on the host: a pyramid in one persistent launch each way."""

import contextlib
import ctypes
import re

import pytest
import torch

from helpers.cuda_on_host import MISSING, NO_FAULT, RELAXED, RESIDENT_BLOCKS, host_library
from helpers.cuda_ops_on_host import host_ops, last_call
from helpers.paths import ROOT
from helpers.tf32 import tf32_reference
from pdb_ext import reference


@pytest.fixture(scope="session")
def ops():
    return host_ops()


DILATIONS = [1, 2]


def pyramid(optional, sizes=(3, 2, 3, 4, 9, 17), dtype=torch.float64):
    """x and the parameters of pdb_convlstm: six tensors for each of two layers of each branch."""
    T, N, Cin, C, H, W = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    parameters = []
    for layer in range(2 * len(DILATIONS)):
        parameters += [normal(4 * C, C if layer % 2 else Cin, 3, 3), normal(4 * C, C, 3, 3)]
        state = (N, C, H, W)
        parameters += [normal(4 * C), normal(3, C, H, W), normal(*state), normal(*state)] if optional else [None] * 4
    return normal(T, N, Cin, H, W), parameters


def pyramid_reference(x, parameters):
    """Outputs and cell states of all layers, the cotangents, and the gradients of x and the parameters."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, *parameters)]
    outputs, cells = [], []
    for layer in range(2 * len(DILATIONS)):
        weight_x, weight_h, bias, peephole, h_0, c_0 = leaves[1 + 6 * layer : 7 + 6 * layer]
        output, (_, c_n) = reference.convlstm(
            outputs[-1] if layer % 2 else leaves[0], weight_x, weight_h, bias, peephole,
            None if h_0 is None else (h_0, c_0), dilation=DILATIONS[layer // 2], reverse=layer % 2 == 1,
        )  # fmt: skip
        outputs.append(output)
        cells.append(c_n)
    results = [torch.stack(outputs), torch.stack(cells)]
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in results]
    grads = iter(torch.autograd.grad(results, [t for t in leaves if t is not None], cotangents))
    return [t.detach() for t in results], cotangents, [None if t is None else next(grads) for t in leaves]


def run_pyramid(ops, x, parameters, cotangents, save=1):
    given = [x.new_empty(0) if t is None else t for t in parameters]
    output, c_n, reserve = ops.pdb_convlstm(x, given, DILATIONS, False, save)
    needs = [True, *(t is not None for t in parameters)]
    grads = ops.pdb_convlstm_backward(*cotangents, x, given, output, reserve, DILATIONS, False, needs)
    return output, c_n, grads


@pytest.fixture
def persistent():
    """An emulated GPU that launches cooperatively, with memory full of NaN. Yields its library.

    Without the NaN, what was not written yet may hold the same values from the run before.
    """
    torch.use_deterministic_algorithms(True)
    library = ctypes.CDLL(str(host_library()))
    library.pdb_set_resident_blocks.argtypes = [ctypes.c_int64]
    library.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    library.pdb_cooperative_launches()
    yield library
    library.pdb_set_resident_blocks(0)
    torch.use_deterministic_algorithms(False)


def check_pyramid(ops, optional, save=1, **options):
    x, parameters = pyramid(optional, **options)
    (output, c_n), cotangents, grads = pyramid_reference(x, parameters)
    actual = run_pyramid(ops, x, parameters, cotangents, save)
    torch.testing.assert_close(actual[0], output)
    torch.testing.assert_close(actual[1], c_n)
    for ours, theirs in zip(actual[2], grads):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def check_pyramid_error(ops, dtype, arithmetic, save, **options):
    """The rule of the tolerances: at most twice PyTorch's own error against float64, and a rounding of the result."""
    x, parameters = pyramid(True, dtype=dtype, **options)
    wide = [None if t is None else t.double() for t in (x, *parameters)]
    exact, _, exact_grads = pyramid_reference(wide[0], wide[1:])
    with arithmetic:
        theirs, cotangents, their_grads = pyramid_reference(x, parameters)
    output, c_n, grads = run_pyramid(ops, x, parameters, cotangents, save)
    for value, other, ours in zip([*exact, *exact_grads], [*theirs, *their_grads], [output, c_n, *grads]):
        allowed = 2 * (other.double() - value).abs().max() + torch.finfo(dtype).eps * value.abs().max()
        assert (ours.double() - value).abs().max() <= allowed


# Tensor cores in chains: forward and backward, side weights beside the recurrent ones or (in TF32 with so many
# channels) alternating with them, all steps at once and in chunks.
@pytest.mark.slow(but=["tf32-whole"])
@pytest.mark.parametrize(
    "save, sizes, launches",
    [(1, (3, 1, 5, 6, 9, 10), 2), (2, (9, 1, 3, 4, 5, 6), 1 + 2 * 3), (1, (3, 1, 17, 32, 8, 8), 2)],
    ids=["whole", "chunks", "32 channels"],
)
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32"])
def test_a_pyramid_on_tensor_cores(ops, persistent, precision, save, sizes, launches, monkeypatch):
    arithmetic = contextlib.nullcontext()
    if precision == "tf32":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        arithmetic = tf32_reference()
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    check_pyramid_error(ops, dtype, arithmetic, save, sizes=sizes)
    assert persistent.pdb_cooperative_launches() == launches
    assert last_call() == ("pdb_convlstm_backward", "persistent", "persistent_kernel", 4, True)


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("optional", [True, False])
def test_a_pyramid_runs_in_one_launch_each_way(ops, persistent, optional, save):
    check_pyramid(ops, optional, save)
    assert persistent.pdb_cooperative_launches() == 2


@pytest.mark.parametrize("optional", [True, False])
def test_a_long_pyramid_saves_memory_in_backward(ops, persistent, optional):
    """Without saved gates: forward in one launch, backward a few steps at a time, a direction's layers together."""
    check_pyramid(ops, optional, save=2, sizes=(11, 1, 3, 2, 4, 5))
    assert persistent.pdb_cooperative_launches() == 1 + 2 * 3
    assert last_call() == ("pdb_convlstm_backward", "persistent", "persistent_kernel", 4, False)


def test_weights_of_a_pyramid_take_turns(ops, persistent):
    """The gate gradients of two dilations leave no room for both weights of backward; more steps than fit at once."""
    check_pyramid(ops, False, sizes=(9, 1, 2, 16, 8, 8))
    assert persistent.pdb_cooperative_launches() == 2


@pytest.mark.parametrize("save", [1, 2])
def test_a_pyramid_that_does_not_fit_runs_layer_by_layer(ops, save):
    check_pyramid(ops, True, save)


@pytest.mark.parametrize("forced", ["step", "aten"])
def test_a_pyramid_follows_the_path_that_is_forced(ops, persistent, monkeypatch, forced):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced)
    check_pyramid(ops, True)
    assert persistent.pdb_cooperative_launches() == 0


def test_layers_that_fit_alone_but_not_together_get_a_launch_each(ops, persistent, monkeypatch):
    persistent.pdb_set_resident_blocks(2 * 2 * 3)  # one layer's tiles of two images
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
    check_pyramid(ops, True)
    assert persistent.pdb_cooperative_launches() == 2 * 2 * len(DILATIONS)


@pytest.mark.slow(but=["chunks"])
@pytest.mark.parametrize("save", [1, 2], ids=["all steps at once", "chunks"])
def test_a_pyramid_whose_backward_waits_without_end_says_of_which_layer(ops, persistent, capfd, save):
    """The second of a branch comes first there. It runs backward in time: its forward ends with frame 0."""
    x, parameters = pyramid(False, sizes=(11, 1, 2, 3, 9, 17))
    _, cotangents, _ = pyramid_reference(x, parameters)
    given = [x.new_empty(0) if t is None else t for t in parameters]
    output, _, reserve = ops.pdb_convlstm(x, given, DILATIONS, False, save)
    persistent.pdb_inject(MISSING, *flag_of_a_step())
    try:
        with pytest.raises(RuntimeError, match="CUDA error|710"):
            needs = [True, *(t is not None for t in parameters)]
            ops.pdb_convlstm_backward(*cotangents, x, given, output, reserve, DILATIONS, False, needs)
    finally:
        persistent.pdb_inject(NO_FAULT, None, 0)
    error = capfd.readouterr().err
    assert re.search(r"pdb_ext: persistent launch, layer [13], step:9: persistent_kernel, backward", error), error


def flag_of_a_step():
    """File and line of its publish."""
    lines = (ROOT / "csrc/cuda/persistent/loop.h").read_text().splitlines()
    return b"persistent/loop.h", next(i for i, line in enumerate(lines, 1) if "PDB_PUBLISH(" in line)


@pytest.mark.slow
def test_no_flag_between_the_layers_of_a_chain_is_missing_unnoticed(ops, persistent):
    x, parameters = pyramid(False)
    _, cotangents, _ = pyramid_reference(x, parameters)
    expected = run_pyramid(ops, x, parameters, cotangents)
    lines = (ROOT / "csrc/cuda/persistent/loop.h").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "shared memory has been used, and all results are stored" in line)
    for line, fault in ((first + 1, MISSING), (first + 2, RELAXED)):
        seen = False
        for seed in range(4):
            persistent.pdb_set_seed(seed)
            persistent.pdb_inject(fault, b"persistent/loop.h", line)
            try:
                actual = run_pyramid(ops, x, parameters, cotangents)
            finally:
                persistent.pdb_inject(NO_FAULT, None, 0)
            pairs = zip([*expected[:2], *expected[2]], [*actual[:2], *actual[2]])
            seen = seen or any(not torch.equal(one, other) for one, other in pairs)
        assert seen, lines[line - 1]
