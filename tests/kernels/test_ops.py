"""The CUDA side of the ops (csrc/ops/cuda) on the host: allocation, options, and the kernels behind them."""

import subprocess
import sys

import pytest
import torch

from helpers.cuda_on_host import MISSING, RESIDENT_BLOCKS, host_library
from helpers.cuda_op_calls import SIZES, arguments, expected
from helpers.cuda_ops_on_host import ops_library
from helpers.paths import ROOT


def run(ops, tensors, cotangents, *options, needs=(True,) * 7, save=1):
    output, c_n, reserve = ops.convlstm(*tensors, *options, save)
    grads = ops.convlstm_backward(*cotangents, *tensors, output, reserve, *options, list(needs))
    return output, c_n, reserve, grads


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("reverse, peephole_current", [(False, True), (True, False)])
def test_equals_the_reference(ops, path, optional, reverse, peephole_current, save):
    tensors = arguments(optional=optional)
    output, c_n, cotangents, grads = expected(tensors, 2, reverse, peephole_current)
    actual = run(ops, tensors, cotangents, 2, reverse, peephole_current, save=save)
    torch.testing.assert_close(actual[0], output)
    torch.testing.assert_close(actual[1], c_n)
    for ours, theirs in zip(actual[3], grads):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def test_what_is_saved_does_not_change_the_result(ops, path):
    tensors = arguments()
    inferred, trained, saving = (ops.convlstm(*tensors, 1, False, False, save) for save in (0, 1, 2))
    assert [r[2].numel() // r[0].numel() for r in (inferred, trained, saving)] == [0, 5, 1]
    half = [t.half() for t in tensors]
    assert [ops.convlstm(*half, 1, False, False, save)[2].numel() // inferred[0].numel() for save in (0, 1, 2)] == [
        0,
        3,
        1,
    ]
    for other in (trained, saving):
        assert torch.equal(other[0], inferred[0]) and torch.equal(other[1], inferred[1])


@pytest.mark.parametrize(
    "forward, backward", [("step", "aten"), ("aten", "step"), ("persistent", "step"), ("aten", "persistent")]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_path_reads_what_another_saved(ops, emulation, monkeypatch, forward, backward, dtype):
    """The environment, TF32 or the device may differ between forward and backward."""
    emulation.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    tensors = arguments(dtype=dtype)
    _, _, cotangents, grads = expected(tensors)
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forward)
    output, _, reserve = ops.convlstm(*tensors, 2, False, False, 1)
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", backward)
    actual = ops.convlstm_backward(*cotangents, *tensors, output, reserve, 2, False, False, [True] * 7)
    for ours, theirs in zip(actual, grads):
        torch.testing.assert_close(ours, theirs, **({} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}))


def test_strides_of_the_arguments_do_not_matter(ops, path):
    T, N, Cin, C, H, W = SIZES
    tensors = arguments(peephole_shape=(3, 1, H, 1))
    output, c_n, cotangents, grads = expected(tensors)
    strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in tensors[:3]]
    strided += [tensors[3].repeat_interleave(2)[::2], tensors[4]]
    strided += [t.to(memory_format=torch.channels_last) for t in tensors[5:]]
    cotangents = [t.transpose(-1, -3).contiguous().transpose(-1, -3) for t in cotangents]
    actual = run(ops, strided, cotangents, 2, False, False)
    torch.testing.assert_close(actual[0], output)
    assert actual[0].is_contiguous()
    for ours, theirs in zip(actual[3], grads):
        torch.testing.assert_close(ours, theirs)


def test_only_the_gradients_that_are_needed(ops, path):
    tensors = arguments()
    _, _, cotangents, grads = expected(tensors)
    for which in range(7):
        needs = [i == which for i in range(7)]
        actual = run(ops, tensors, cotangents, 2, False, False, needs=needs, save=1 + which % 2)[3]
        assert [t.numel() > 0 for t in actual] == needs
        torch.testing.assert_close(actual[which], grads[which])


def test_empty_batch(ops, path):
    tensors = arguments((2, 0, 3, 4, 5, 6))
    output, c_n, cotangents, _ = expected(tensors)
    actual = run(ops, tensors, cotangents, 1, False, False)
    assert actual[0].shape == output.shape and actual[1].shape == c_n.shape
    for ours, argument in zip(actual[3], tensors):
        assert ours.shape == argument.shape and not ours.any()


@pytest.fixture
def no_tf32():
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def test_float32_follows_the_tf32_setting_of_pytorch(ops, no_tf32):
    tensors = arguments(dtype=torch.float32)
    exact = ops.convlstm(*tensors, 1, False, False, 0)[0]
    torch.backends.cudnn.allow_tf32 = True
    tf32 = ops.convlstm(*tensors, 1, False, False, 0)[0]
    # TF32 keeps 11 significant bits of the operands; float32 24.
    difference = (exact - tf32).abs().max()
    assert 2**-18 < difference < 2**-8


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(ops, path, dtype, save, no_tf32):
    tensors = arguments(dtype=dtype)
    wide = [t.double() for t in tensors]
    output, c_n, cotangents, grads = expected(wide)
    narrow = expected(tensors)
    actual = run(ops, tensors, [t.to(dtype) for t in cotangents], 2, False, False, save=save)
    assert actual[2].dtype == torch.float32 and actual[0].dtype == actual[1].dtype == dtype
    exact = [output, c_n, *grads]
    pytorch = [narrow[0], narrow[1], *narrow[3]]
    for ours, theirs, value in zip([actual[0], actual[1], *actual[3]], pytorch, exact):
        allowed = 2 * (theirs.double() - value).abs().max() + torch.finfo(dtype).eps * value.abs().max()
        assert (ours.double() - value).abs().max() <= allowed


def test_other_dtypes_are_refused(ops):
    tensors = [t.to(torch.float8_e5m2) for t in arguments(dtype=torch.float32, optional=False)[:3]]
    with pytest.raises(RuntimeError, match="x must be float16, bfloat16, float32 or float64, got"):
        ops.convlstm(*tensors, None, None, None, None, 1, False, False, 0)


# More channels and pixels than a tile of the gate kernel (32 by 32), neither a multiple of it.
WIDE = (3, 2, 5, 37, 5, 11)


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("tf32", [False, True], ids=["contiguous", "channels_last"])
def test_gate_kernel_in_both_layouts(ops, monkeypatch, no_tf32, tf32, save):
    """With TF32 allowed the convolutions are in channels_last; on the host they still compute in float32."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    tensors = arguments(WIDE, torch.float32)
    exact = expected([t.double() for t in tensors], 1, True, True)
    pytorch = expected(tensors, 1, True, True)
    torch.backends.cudnn.allow_tf32 = tf32
    actual = run(ops, tensors, pytorch[2], 1, True, True, save=save)
    for ours, theirs, value in zip([*actual[:2], *actual[3]], [*pytorch[:2], *pytorch[3]], [*exact[:2], *exact[3]]):
        allowed = 2 * (theirs.double() - value).abs().max() + torch.finfo(torch.float32).eps * value.abs().max()
        assert (ours.double() - value).abs().max() <= allowed


def test_no_barrier_of_the_gate_kernel_is_missing_unnoticed(ops, emulation, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    tensors = arguments(WIDE, torch.float16)
    cotangents = [t.half() for t in expected(tensors)[2]]
    right = run(ops, tensors, cotangents, 1, False, False)
    lines = (ROOT / "csrc/cuda/gates/gates.cu").read_text().splitlines()
    sites = [number for number, line in enumerate(lines, 1) if "__syncthreads()" in line]
    assert sites
    for site in sites:
        emulation.pdb_inject(MISSING, b"gates/gates.cu", site)
        wrong = run(ops, tensors, cotangents, 1, False, False)
        assert any(not torch.equal(a, b) for a, b in zip([*right[:3], *right[3]], [*wrong[:3], *wrong[3]])), site


def test_pytorchs_settings_are_as_before(ops, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    tensors = arguments()
    run(ops, tensors, expected(tensors)[2], 1, False, False)
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic


def test_autocast_does_not_reach_inside(ops, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    tensors = arguments(dtype=torch.float32)
    output, c_n, _ = ops.convlstm(*tensors, 1, False, False, 1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ops.convlstm(*tensors, 1, False, False, 1)
    assert torch.equal(inside[0], output) and torch.equal(inside[1], c_n)


@pytest.mark.parametrize("save", [1, 2])
@pytest.mark.parametrize("optional", [True, False])
def test_a_gpu_without_kernels_uses_pytorchs_operators(ops, emulation, optional, save):
    emulation.pdb_set_architecture(0)
    tensors = arguments(optional=optional)
    output, c_n, cotangents, grads = expected(tensors, 2, True, optional)
    actual = run(ops, tensors, cotangents, 2, True, optional, save=save)
    again = run(ops, tensors, cotangents, 2, True, optional, save=save)
    torch.testing.assert_close(actual[0], output)
    torch.testing.assert_close(actual[1], c_n)
    for ours, repeated, theirs in zip(actual[3], again[3], grads):
        assert torch.equal(ours, repeated)
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


WARN = """
import ctypes, sys, torch
from helpers.cuda_op_calls import arguments
torch.ops.load_library(sys.argv[2])
ctypes.CDLL(sys.argv[1]).pdb_set_architecture(0)
ops, tensors = torch.ops.pdb_ext_on_host, arguments(optional=False)
for reverse in (False, True, False):
    output, c_n, reserve = ops.convlstm(*tensors, 1, reverse, False, 1)
    ops.convlstm_backward(output, c_n, *tensors, output, reserve, 1, reverse, False, [True] * 7)
print("many calls", file=sys.stderr, flush=True)
torch.set_warn_always(True)
ops.convlstm(*tensors, 1, False, False, 0)
"""


def test_a_gpu_without_kernels_warns_once():
    """In a separate process: this one may have warned already. At the end it is set to warn always, and does."""
    command = [sys.executable, "-W", "always", "-c", WARN, str(host_library()), str(ops_library())]
    result = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=True)
    before, after = result.stderr.split("many calls")
    for text in (before, after):
        assert text.count("pdb_ext was not built for this GPU (compute capability 9.0)") == 1, result.stderr


def test_a_path_that_does_not_exist_is_named(ops, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "fast")
    with pytest.raises(
        (ValueError, RuntimeError), match="PDB_EXT_CUDA_PATH must be step, persistent or aten, got 'fast'"
    ):
        ops.convlstm(*arguments(), 1, False, False, 0)
