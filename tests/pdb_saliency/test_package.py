"""What importing the package provides, and what it imports in turn."""

import subprocess
import sys

import pytest

import pdb_saliency


def test_importing_the_package_waits_for_nothing():
    """The command line answers --help and bad arguments before torch is imported."""
    script = "import sys, pdb_saliency; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_every_public_name_exists():
    assert all(getattr(pdb_saliency, name).__name__ == name for name in pdb_saliency.__all__)
    with pytest.raises(AttributeError, match="no attribute 'predictor_'"):
        pdb_saliency.predictor_  # noqa: B018
