"""Streams, devices, limits and the choice of a path on a real GPU; skipped without one (see test_on_gpu.py)."""

import shutil
import subprocess
import time

import pytest
import torch

import pdb_ext
from helpers.on_gpu import (
    DEVICE,
    PAPER,
    assert_path,
    forced,
    gpu_arguments,
    is_large_gpu,
    on_every_path,
    results_and_gradients,
    skip_without_gpu,
)  # fmt: skip
from helpers.paths import ROOT
from helpers.problems import Problem

skip_without_gpu()

LARGE = Problem(T=2, N=8, in_channels=64, C=64, H=64, W=64)


@on_every_path
def test_runs_on_the_current_stream(path):
    """A kernel on another stream would read x before the slow work that fills it has ended."""
    arguments, _ = gpu_arguments(PAPER)
    expected = pdb_ext.convlstm(**arguments)[0].detach()
    x, slow = arguments["x"].detach(), torch.randn(4096, 4096, device=DEVICE)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            slow = slow @ slow * 1e-3
        late.copy_(x + 0 * slow[0, 0].nan_to_num(0, 0, 0))
        output = pdb_ext.convlstm(**(arguments | {"x": late}))[0]
    torch.cuda.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_its_arguments():
    arguments, _ = gpu_arguments(PAPER)
    state = arguments.pop("state")
    other = {k: v.to("cuda:1") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    assert state is None and torch.equal(pdb_ext.convlstm(**other)[0].cpu(), pdb_ext.convlstm(**arguments)[0].cpu())


@pytest.mark.parametrize("path", ["step", "aten"])
def test_more_than_2_to_31_elements(path):
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GB of free GPU memory")
    x = torch.randn(33, 1, 1, 1024, 1024, device=DEVICE, dtype=torch.float16)
    weight_x, weight_h = (torch.randn(256, c, 1, 1, device=DEVICE, dtype=torch.float16) * 0.1 for c in (1, 64))
    with torch.no_grad(), forced(path):
        output, (h_n, c_n) = pdb_ext.convlstm(x, weight_x, weight_h)
        assert output.numel() > 2**31
        _, state = pdb_ext.convlstm(x[:32], weight_x, weight_h)
        last, (_, c_last) = pdb_ext.convlstm(x[32:], weight_x, weight_h, state=state)
    # c is handed over in float16 here, in float32 within one call.
    torch.testing.assert_close(output[32:], last, atol=4e-3, rtol=4e-3)
    torch.testing.assert_close(c_n, c_last, atol=4e-3, rtol=4e-3)


def test_gradients_of_more_than_2_to_31_elements():
    """Gate gradients of 2^31 elements and more; those of the weights are sums over all of them."""
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GB of free GPU memory")
    x = torch.randn(3, 1, 1, 2048, 2048, device=DEVICE)
    weights = [(torch.randn(192, c, 1, 1, device=DEVICE) * 0.1).requires_grad_() for c in (1, 48)]
    assert 3 * 192 * 2048**2 > 2**31

    def gradients(path):
        with forced(path):
            output, _ = pdb_ext.convlstm(x, *weights, recompute_gates=True)
            return torch.autograd.grad(output.sum(), weights)

    for one, other in zip(gradients("step"), gradients("aten")):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


@pytest.mark.parametrize("forced_path", ["step", "aten"])
def test_out_of_memory_leaves_the_device_usable(monkeypatch, forced_path):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced_path)
    weight = torch.zeros(4, 1, 1, 1, device=DEVICE)
    x = torch.zeros(1, 1, 1, 1024, 1024, device=DEVICE).expand(2**20, -1, -1, -1, -1)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        pdb_ext.convlstm(x, weight, weight)
    torch.cuda.synchronize()
    assert pdb_ext.convlstm(x[:1], weight, weight)[0].sum().item() == 0


def recorded(problem, dtype):
    arguments, leaves = gpu_arguments(problem, dtype)
    with pdb_ext.record_calls() as calls:
        results_and_gradients(arguments, leaves)
    return calls


def test_the_rule_takes_cudnn_for_large_layers_only(monkeypatch):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    assert_path(recorded(LARGE, torch.float16), "aten")
    small = recorded(PAPER, torch.float16)
    assert [call["op"] for call in small] == ["convlstm", "convlstm_backward"]
    assert all(
        call["path"] in (("persistent",) if is_large_gpu() else ("persistent", "step", "aten")) for call in small
    )


def test_forcing_a_path_that_does_not_fit_says_so(monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
    with pytest.raises(RuntimeError, match="PDB_EXT_CUDA_PATH=persistent: this layer .*does not fit"):
        recorded(LARGE, torch.float16)


def test_a_wait_without_end_ends_the_launch(tmp_path):
    """The flag is never set. In a separate process, since that loses its GPU context: after about two seconds."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin") or pytest.skip("no nvcc")
    major, minor = torch.cuda.get_device_capability()
    program = tmp_path / "starved_wait"
    compile_it = [nvcc, "-std=c++17", f"-arch=sm_{major}{minor}", "-I", str(ROOT / "csrc"), "-o", str(program)]
    subprocess.run([*compile_it, str(ROOT / "tests/kernels/cuda_device/starved_wait.cu")], check=True)
    begin = time.monotonic()
    result = subprocess.run([str(program)], capture_output=True, text=True, timeout=15)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pdb_ext: persistent launch, layer 3, step:7: persistent_kernel, backward" in result.stdout + result.stderr
    assert time.monotonic() - begin > 1
