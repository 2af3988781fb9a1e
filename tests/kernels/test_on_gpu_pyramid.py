"""The paper's pyramid on a real GPU, all layers in one launch; skipped without one (see test_on_gpu.py)."""

import copy

import pytest
import torch

import pdb_ext
from helpers.on_gpu import (
    DEVICE,
    DTYPES,
    assert_in_trace,
    assert_path,
    captured,
    is_large_gpu,
    kernel_names,
    pyramid_results,
    reference_convlstm,
    roundings,
    skip_without_gpu,
    tf32,
)  # fmt: skip
from helpers.problems import rms

skip_without_gpu()

PRECISIONS = pytest.mark.parametrize("precision", list(DTYPES))
ONE_LAUNCH = [("pdb_convlstm", 4), ("pdb_convlstm_backward", 4)]  # ops and layers of forward and backward


@pytest.fixture
def persistent(monkeypatch):
    """One launch for all layers, or an error. Yields what the ops record, which must be that."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
    with pdb_ext.record_calls() as calls:
        yield calls
    assert_path(calls, "persistent")
    assert [(call["op"], call["layers"]) for call in calls] == ONE_LAUNCH * (len(calls) // 2)


def paper(dtype, T=5):
    """The paper's module and its input."""
    torch.manual_seed(0)
    module = pdb_ext.PDBConvLSTM(32, 32).to(DEVICE, dtype)
    return module, torch.randn(1, T, 32, 60, 60, device=DEVICE, dtype=dtype, requires_grad=True)


def one_by_one(monkeypatch, module, x, layer=None):
    """The results of a pyramid whose layers are called one by one; layer: instead of pdb_ext's own."""
    with monkeypatch.context() as patch:
        patch.delenv("PDB_EXT_CUDA_PATH", raising=False)
        patch.setattr(pdb_ext.modules.paper, "runs_in_one_op", lambda *_: False)
        if layer is not None:
            patch.setattr(pdb_ext.modules.padded, "convlstm", layer)
        return pyramid_results(module, x)


@pytest.mark.parametrize("N, H, W", [(1, 60, 60), (2, 9, 17), (40, 60, 60)], ids=["paper", "small", "more than fits"])
def test_a_pyramid_equals_its_layers_one_by_one(N, H, W, monkeypatch):
    torch.manual_seed(0)
    module = pdb_ext.PDBConvLSTM(8, 8, peephole=(3, 8, 1, 1)).to(DEVICE, torch.float64)
    x = torch.randn(N, 3, 8, H, W, device=DEVICE, dtype=torch.float64, requires_grad=True)
    with pdb_ext.record_calls() as calls:
        together = pyramid_results(module, x)
    assert calls and (N < 40 or all(call["path"] != "persistent" for call in calls))
    for one, other in zip(together, one_by_one(monkeypatch, module, x)):
        torch.testing.assert_close(one, other)


@PRECISIONS
@pytest.mark.parametrize("T", [5, 80])
def test_error_of_a_pyramid_is_at_most_twice_that_of_pytorch(T, precision, persistent, monkeypatch):
    """RMS error against float64, of the output and every gradient, at the paper's sizes."""
    module, x = paper(DTYPES[precision], T)
    exact = one_by_one(
        monkeypatch, copy.deepcopy(module).double(), x.detach().double().requires_grad_(), reference_convlstm
    )
    with tf32(precision == "tf32"):
        ours = pyramid_results(module, x)
        theirs = one_by_one(monkeypatch, module, x, reference_convlstm)
    names = ["y", "x", *(name for name, _ in module.named_parameters())]
    for name, one, other, value in zip(names, ours, theirs, exact, strict=True):
        allowed = max(2 * rms(other - value), roundings(precision) * rms(value))
        assert rms(one - value) <= allowed, name


@PRECISIONS
def test_the_trace_shows_one_persistent_kernel_each_way(precision, persistent):
    module, x = paper(DTYPES[precision])
    with tf32(precision == "tf32"):
        names = kernel_names(lambda: pyramid_results(module, x))
    assert_in_trace(persistent, names)
    kernels = [name for name in names if "persistent_kernel" in name]
    assert any("Forward" in name for name in kernels) and any("Backward" in name for name in kernels), names


def test_the_rule_takes_one_launch_for_the_papers_module(monkeypatch):
    if not is_large_gpu():
        pytest.skip("needs a larger GPU")
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    module, x = paper(torch.bfloat16)
    with pdb_ext.record_calls() as calls:
        pyramid_results(module, x)
    assert_path(calls, "persistent")
    assert [(call["op"], call["layers"]) for call in calls] == ONE_LAUNCH


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_a_pyramid_small_enough_for_compute_sanitizer(dtype, recompute_gates, persistent):
    module = pdb_ext.PDBConvLSTM(9, 9, recompute_gates=recompute_gates).to(DEVICE, dtype)
    x = torch.randn(2, 2, 9, 7, 19, device=DEVICE, dtype=dtype, requires_grad=True)
    assert all(torch.isfinite(value).all() for value in pyramid_results(module, x))


@PRECISIONS
def test_a_pyramid_gives_the_same_bits_in_every_run(precision, persistent, monkeypatch):
    """Eq. 5 is PyTorch's, which in float32 takes algorithms of cuDNN that do not, unless told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    module, x = paper(DTYPES[precision])
    names = ["y", "x", *(name for name, _ in module.named_parameters())]
    with tf32(precision == "tf32"):
        first = pyramid_results(module, x)
        for _ in range(10):
            again = pyramid_results(module, x)
            assert [name for name, a, b in zip(names, first, again, strict=True) if not torch.equal(a, b)] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_pyramid_in_a_cuda_graph_gives_the_same_bits_in_every_run(dtype, persistent):
    module, x = paper(dtype)
    graph, results = captured(lambda: pyramid_results(module, x))
    expected = pyramid_results(module, x)
    for _ in range(20):
        graph.replay()
        assert all(torch.equal(one, other) for one, other in zip(results, expected))
