"""Resident memory over a long video: `python python/benchmarks/long_video.py [--frames 100000]`.

A generated stream goes through the engine (clips of five, its threads) and every kind of output that grows with the
run. A grey-scale model replaces the network, so that 100,000 frames take minutes. The resident memory of this process
and its children is sampled 20 times. The last line is its growth, without the first tenth of the run, in bytes per
frame.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pdb_saliency.inference.engine import Engine
from pdb_saliency.predict.job import run
from pdb_saliency.predict.outputs.result import RunInfo
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.video.frame import Frame

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))


class GeneratedFilm:
    """Frames that are generated when they are read: a bright box drifts over noise."""

    fps = 25.0
    files = ()
    remark = None

    def __init__(self, count: int, height: int = 72, width: int = 128):
        self.count = count
        self._ground = np.random.default_rng(0).integers(0, 60, (height, width, 3), np.uint8)

    def __iter__(self):
        for index in range(self.count):
            image = self._ground.copy()
            left = index % (image.shape[1] - 20)
            image[20:50, left : left + 20] = 220
            yield Frame(f"{index:06d}", image, index / self.fps)


def resident() -> int:
    """Resident memory in bytes of this process and the processes that it started."""
    tasks = f"/proc/{os.getpid()}/task"
    children = [child for task in os.listdir(tasks) for child in Path(tasks, task, "children").read_text().split()]
    pages = 0
    for process in [str(os.getpid()), *children]:
        try:
            pages += int(Path("/proc", process, "statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watched(ResultWriter):
    """Samples resident memory. Pictures are removed again, to save disk space."""

    def __init__(self, out: Path, kinds: list[str], total: int):
        super().__init__(out, kinds, RunInfo(fps=25.0))
        self.samples: list[tuple[int, int]] = []
        self._step = max(1, total // 20)

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        super().write(frame, saliency)
        for kind in ("maps", "masks"):
            (self.out / kind / f"{frame.name}.png").unlink(missing_ok=True)
        if self.frames % self._step == 0:
            self.samples.append((self.frames, resident()))
            print(f"{self.frames:8} frames  {self.samples[-1][1] / 2**20:7.1f} MiB", flush=True)


def measure(frames: int, kinds: list[str]) -> list[tuple[int, int]]:
    """(frames written, resident bytes), 20 times."""
    from helpers.fake_model import GreyModel

    with tempfile.TemporaryDirectory() as folder, Watched(Path(folder), kinds, frames) as writer:
        run(GeneratedFilm(frames), Engine(GreyModel(), torch.device("cpu")), writer, progress=False)
    return writer.samples


def growth(samples: list[tuple[int, int]]) -> float:
    """Bytes per frame, by least squares over the samples after a tenth of the run."""
    late = np.array([sample for sample in samples if sample[0] > samples[-1][0] / 10], float)
    return float(np.polyfit(late[:, 0], late[:, 1], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--save", default="maps,masks,video,json,coco,report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    samples = measure(arguments.frames, arguments.save.split(","))
    rate = arguments.frames / (time.monotonic() - begin)
    frame = f"a frame has {72 * 128 * 3} bytes"
    print(f"growth {growth(samples):.1f} bytes a frame ({arguments.save}; {frame}); {rate:.0f} frames/s")


if __name__ == "__main__":
    main()
