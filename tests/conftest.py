"""What every test starts from."""

import os

import pytest
import torch

# The tests' tensors are so small that a second thread only waits; tests that need threads ask for them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def has_lost_the_gpu() -> bool:
    """Whether nothing more can be computed there, as after a failed assertion in a kernel; other errors come but once."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
    return False


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid):
    """Ends a process that has lost the GPU: it would fail every test that it still has. xdist goes on with another one."""
    if not torch.cuda.is_initialized() or not has_lost_the_gpu():
        return
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(3)
    pytest.exit(f"{nodeid}: the GPU cannot be used any more", returncode=3)
