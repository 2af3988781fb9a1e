"""How the CRF scales with processes: `python python/benchmarks/crf.py [--workers 1 2 4]`.

Frames of the demo's film with blurred masks go through `RefiningWriter`, which `predict --crf` uses. First the results
are compared with those of direct calls of the library; then the numbers of processes take turns. The time to start them
is left out.
"""

import argparse
import os
import statistics
import time

import cv2
import numpy as np

from measure import machine
from pdb_saliency.demo.film import MeadowFilm
from pdb_saliency.inference import crf
from pdb_saliency.video.frame import Frame


class Nowhere:
    """Takes results; `answers` keeps them."""

    out = None

    def __init__(self):
        self.answers = []

    @property
    def frames(self):
        return len(self.answers)

    def write(self, frame, saliency):
        self.answers.append(saliency)

    def finish(self):
        pass


def scenes(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    film = MeadowFilm(count=count, width=854, height=480)
    pairs = (film.frame(index) for index in range(count))
    return [(image, cv2.GaussianBlur(mask, (0, 0), 9).astype(np.float32) / 255) for image, mask in pairs]


def run(pairs: list, workers: int) -> tuple[float, list[np.ndarray]]:
    """(frames a second, the answers). The first frames start the processes and are not counted."""
    with crf.RefiningWriter(Nowhere(), workers) as warm:
        for image, saliency in [(image[:40, :40], saliency[:40, :40]) for image, saliency in pairs[:1] * (4 * workers)]:
            warm.write(Frame("warm", image), saliency)
        while warm._pending:
            warm._pass_on()
        receiver = warm._writer = Nowhere()
        begin = time.perf_counter()
        for index, (image, saliency) in enumerate(pairs):
            warm.write(Frame(str(index), image), saliency)
        warm.finish()
        return len(pairs) / (time.perf_counter() - begin), receiver.answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    powers = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= (os.cpu_count() or 1)]
    parser.add_argument("--workers", type=int, nargs="+", default=powers, metavar="N")
    parser.add_argument("--frames", type=int, default=12, help="for each process (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(machine(), f"load average {os.getloadavg()[0]:.1f}")
    pairs = scenes(arguments.frames)
    exact = [crf.refine(image, saliency) for image, saliency in pairs]
    rates: dict[int, list[float]] = {workers: [] for workers in dict.fromkeys([1, *arguments.workers])}
    for _ in range(arguments.rounds):
        for workers in rates:
            rate, answers = run(pairs * workers, workers)
            assert all(map(np.array_equal, answers, exact * workers)), "the answers differ from the library's"
            rates[workers].append(rate)
    for workers, values in rates.items():
        scale = statistics.median(rate / one for rate, one in zip(values, rates[1]))
        spread = f"[{min(values):.2f}, {max(values):.2f}]"
        rate, efficiency = f"{statistics.median(values):.2f} frames/s {spread}", f"{scale / workers:.2f} N"
        print(f"{workers:2} processes: {rate}, {efficiency} of one process")


if __name__ == "__main__":
    main()
