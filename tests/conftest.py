"""What several test files share."""

from pathlib import Path

import pytest
import torch

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(relative: str) -> Path:
    """A file of the real data and fixtures beside the repository; the test is skipped where they are absent."""
    path = _SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the data folder '{_SHARED.name}' beside the repository")
    return path


# The tests' tensors are so small that a second thread only waits; tests that need threads ask for them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
