"""Memory does not grow with the video: a short run of python/benchmarks/long_video.py, with outputs that could grow."""

import re
from pathlib import Path

import pytest

from helpers.console import run_process
from helpers.paths import BENCHMARKS

BENCHMARK = BENCHMARKS / "long_video.py"
FRAME = 72 * 128 * 3  # bytes of a frame there; a map has a third of it


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to measure resident memory")
def test_memory_grows_by_less_than_a_tenth_of_a_frame_for_each_frame():
    done = run_process(str(BENCHMARK), "--frames", "2500", "--save", "maps,video,json,report")
    growth = re.search(r"growth (-?[\d.]+) bytes a frame", done.stdout)
    assert growth, done.stderr
    assert float(growth[1]) < FRAME / 10, done.stdout
