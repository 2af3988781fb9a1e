"""Where things lie."""

from pathlib import Path

import pytest

HELPERS = Path(__file__).resolve().parent
TESTS = HELPERS.parent
ROOT = TESTS.parent
CSRC = ROOT / "csrc"
CUDA = CSRC / "cuda"
BENCHMARKS = ROOT / "python" / "benchmarks"
EXPERIMENTS = ROOT / "python" / "experiments"
_SHARED = ROOT.parent / "shared"


def shared_path(relative: str) -> Path:
    """A file of the real data and fixtures beside the repository; the test is skipped if they are absent."""
    path = _SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the data folder '{_SHARED.name}' beside the repository")
    return path
