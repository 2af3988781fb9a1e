"""The emulated GPU, for all tests of the CUDA kernels and ops."""

import ctypes

import pytest

from helpers.cuda_on_host import NO_FAULT, RESIDENT_BLOCKS, host_library
from helpers.cuda_ops_on_host import host_ops


@pytest.fixture(scope="session")
def ops():
    return host_ops()


@pytest.fixture(params=["step", "persistent", "aten"])
def path(request, monkeypatch, emulation):
    """Every layer takes it: a launch that is not the path's would show in the count of cooperative ones."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", request.param)
    emulation.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    emulation.pdb_cooperative_launches()
    yield request.param
    assert (emulation.pdb_cooperative_launches() > 0) == (
        request.param == "persistent" and "empty" not in request.node.name
    )


@pytest.fixture
def emulation():
    """The library with the emulated GPU, for its settings, which are restored afterwards."""
    library = ctypes.CDLL(str(host_library()))
    library.pdb_set_resident_blocks.argtypes = [ctypes.c_int64]
    yield library
    library.pdb_set_resident_blocks(0)
    library.pdb_set_architecture(90)
    library.pdb_inject(NO_FAULT, None, 0)
