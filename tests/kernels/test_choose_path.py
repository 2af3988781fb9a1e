"""The path of a layer (csrc/cuda/choose_path.h): the rule, for an emulated GPU; forced paths; the record of a call."""

import ctypes
import re

import pytest
import torch

from helpers.cuda_on_host import RESIDENT_BLOCKS, Arguments
from helpers.cuda_op_calls import arguments, expected
from helpers.cuda_ops_on_host import last_call
from helpers.paths import ROOT

PATHS = ("step", "persistent", "aten")
PASSES = ("forward", "training", "backward")
SIZES_OF_PATHS = {  # T, N, Cin, C, H, W, dilation, bytes of an element
    "the paper's layer": ((5, 1, 32, 32, 60, 60), 1, 2, "step"),
    "the paper's layer, dilation 2, TF32": ((5, 1, 32, 32, 60, 60), 2, 4, "step"),
    "nowcasting": ((10, 8, 64, 64, 64, 64), 1, 2, "aten"),
    "nowcasting, C=128": ((10, 8, 128, 128, 64, 64), 1, 2, "aten"),
    "a batch of 16": ((5, 16, 32, 32, 60, 60), 1, 2, "step"),
    "four large images": ((5, 4, 32, 32, 120, 120), 1, 2, "step"),
    # The halo of dilation 9 is too wide for the tensor-core step.
    "a large batch, dilation 9": ((5, 4, 32, 32, 60, 60), 9, 2, "aten"),
}


def chosen(emulation, sizes, dilation, element_size, architecture=90, multiprocessors=132, which="forward"):
    T, N, Cin, C, H, W = sizes
    layer = Arguments(T, N, Cin, C, H, W, 3, dilation, False, False, element_size < 8)
    size = ctypes.c_int64(element_size)
    index = emulation.pdb_choose_path(ctypes.byref(layer), size, architecture, multiprocessors, PASSES.index(which))
    return PATHS[index] if index >= 0 else None


@pytest.mark.parametrize("name", SIZES_OF_PATHS)
def test_the_rule_that_chooses_a_path(emulation, monkeypatch, name):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    *problem, path = SIZES_OF_PATHS[name]
    # Layers that fit on the chip may take the persistent path instead of single steps.
    assert chosen(emulation, *problem) in ((path,) if path == "aten" else ("step", "persistent"))
    for forced in ("step", "aten"):
        monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced)
        assert chosen(emulation, *problem) == forced
        assert chosen(emulation, *problem, architecture=0) == "aten"


def test_the_rule_takes_the_persistent_path_where_the_layer_fits(emulation, monkeypatch):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    (sizes, *rest, _), (large, *other, _) = SIZES_OF_PATHS["the paper's layer"], SIZES_OF_PATHS["nowcasting"]
    tiles = 8 * 8
    for resident, path in ((0, "step"), (tiles - 1, "step"), (tiles, "persistent")):
        emulation.pdb_set_resident_blocks(resident)
        assert chosen(emulation, sizes, *rest) == path
        assert chosen(emulation, sizes, *rest, which="backward") == ("aten" if path == "step" else path)
        monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
        assert chosen(emulation, sizes, *rest) == path and chosen(emulation, large, *other) == "step"
        monkeypatch.delenv("PDB_EXT_CUDA_PATH")
        assert chosen(emulation, large, *other) == "aten"


def test_a_large_layer_in_training_takes_the_convolutions_that_its_backward_pass_takes(emulation, monkeypatch):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    emulation.pdb_set_resident_blocks(0)
    sizes, large = (5, 4, 32, 32, 60, 60), (5, 4, 32, 32, 120, 120)
    assert chosen(emulation, sizes, 1, 2, which="training") == "step"
    assert chosen(emulation, large, 1, 2, which="training") == "aten"
    assert chosen(emulation, large, 1, 2) == "step"
    # Without tensor cores backward is fused, too. This layer has 0.4 of the operations at which cuDNN pays.
    assert chosen(emulation, (5, 1, 16, 16, 40, 40), 1, 8, which="training") == "step"


def test_a_forced_path_that_cannot_be_taken_is_an_error(ops, emulation, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
    tensors = arguments()
    output, c_n, cotangents, _ = expected(tensors)
    too_large = (
        r"PDB_EXT_CUDA_PATH=persistent: this layer \(N=2, Cin=3, C=4, 5x6, k=3, dilation=2, Double\) does not fit"
    )
    with pytest.raises(RuntimeError, match=too_large):
        ops.convlstm(*tensors, 2, False, False, 0)
    emulation.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    actual = ops.convlstm(*tensors, 2, False, False, 1)
    torch.testing.assert_close(actual[0], output)
    emulation.pdb_set_resident_blocks(0)
    with pytest.raises(RuntimeError, match=too_large):
        ops.convlstm_backward(*cotangents, *tensors, actual[0], actual[2], 2, False, False, [True] * 7)


@pytest.mark.parametrize("forced", ["step", "persistent"])
def test_a_gpu_without_kernels_refuses_forced_paths(ops, emulation, monkeypatch, forced):
    emulation.pdb_set_architecture(0)
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced)
    with pytest.raises(RuntimeError, match=f"PDB_EXT_CUDA_PATH={forced}: pdb_ext was not built for this GPU"):
        ops.convlstm(*arguments(), 2, False, False, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_a_call_says_how_it_was_computed(ops, path, dtype):
    tensors = arguments(dtype=dtype)
    cotangents = [t.to(dtype) for t in expected([t.double() for t in tensors])[2]]
    tensor_cores = dtype == torch.float16
    kernels = {"persistent": ("persistent_kernel",) * 2, "aten": ("gates_forward_kernel", "gates_backward_kernel")}
    step = ("forward_step_kernel", "backward_step_kernel")
    kernels["step"] = tuple(f"mma_{name}" for name in step) if tensor_cores else step
    output, _, reserve = ops.convlstm(*tensors, 2, False, False, 1)
    assert last_call() == ("convlstm", path, kernels[path][0], 1, tensor_cores)
    ops.convlstm_backward(*cotangents, *tensors, output, reserve, 2, False, False, [True] * 7)
    assert last_call() == ("convlstm_backward", path, kernels[path][1], 1, tensor_cores)


def test_the_names_of_the_kernels_are_theirs():
    """The kernel names that calls report exist in the sources."""
    text = (
        "".join(path.read_text() for path in ROOT.glob("csrc/cuda/**/*.cu"))
        + (ROOT / "csrc/cuda/persistent/loop.h").read_text()
    )
    for name in re.findall(r'"(\w+_kernel)"', (ROOT / "csrc/cuda/choose_path.cpp").read_text()):
        assert re.search(rf"\b{name}\(", text), name
