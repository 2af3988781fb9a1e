"""The rule that chooses a layer's path (csrc/cuda/choose_path.h), with an emulated GPU's numbers."""

import ctypes

import pytest

from cuda_on_host import Arguments
from test_cuda_ops_on_host import emulation  # noqa: F401  # a fixture

PATHS = ("step", "persistent", "aten")
SIZES_OF_PATHS = {  # T, N, Cin, C, H, W, dilation, bytes of an element
    "the paper's layer": ((5, 1, 32, 32, 60, 60), 1, 2, "step"),
    "the paper's layer, dilation 2, TF32": ((5, 1, 32, 32, 60, 60), 2, 4, "step"),
    "nowcasting": ((10, 8, 64, 64, 64, 64), 1, 2, "aten"),
    "nowcasting, C=128": ((10, 8, 128, 128, 64, 64), 1, 2, "aten"),
    "a batch of 16": ((5, 16, 32, 32, 60, 60), 1, 2, "aten"),
    # The halo of dilation 9 is too wide for the tensor-core step.
    "a large batch, dilation 9": ((5, 4, 32, 32, 60, 60), 9, 2, "aten"),
}


def chosen(emulation, sizes, dilation, element_size, architecture=90, multiprocessors=132):
    T, N, Cin, C, H, W = sizes
    layer = Arguments(T, N, Cin, C, H, W, 3, dilation, False, False, element_size < 8)
    size = ctypes.c_int64(element_size)
    index = emulation.pdb_choose_path(ctypes.byref(layer), size, architecture, multiprocessors)
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
        monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
        assert chosen(emulation, sizes, *rest) == path and chosen(emulation, large, *other) == "step"
        monkeypatch.delenv("PDB_EXT_CUDA_PATH")
        assert chosen(emulation, large, *other) == "aten"
