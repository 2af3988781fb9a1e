"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

# Page faults of taking, filling and freeing 64 MB ten times, after a first time.
PROGRAM = """
import resource, sys
import numpy as np
from pdb_saliency.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for round in range(11):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(64 << 20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is GNU's")
def test_large_blocks_are_not_taken_from_the_kernel_again():
    default, kept = page_faults("default"), page_faults("keep")
    if default < 100:
        pytest.skip("this C library keeps freed memory by itself")
    assert kept < default / 10
