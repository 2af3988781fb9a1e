"""Speed of `pdb-saliency evaluate`: `python python/benchmarks/evaluate.py MASKS`.

MASKS: a folder with a folder of masks for each sequence, as DAVIS's Annotations/480p. The maps are the masks, blurred.
Every run is a separate process, start and decoding included, with all metrics, J and F among them; the last lines
take the saliency metrics of pysodmetrics, where it is installed, on one core for comparison, decoding left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from measure import machine


def blurred(masks: Path, maps: Path) -> int:
    """Writes the maps; returns how many."""
    count = 0
    for path in sorted(masks.glob("*/*.png")):
        (maps / path.parent.name).mkdir(parents=True, exist_ok=True)
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(maps / path.parent.name / path.name), cv2.GaussianBlur(mask, (0, 0), 7))
        count += 1
    return count


def evaluate(maps: Path, masks: Path, workers: int) -> float:
    command = [sys.executable, "-m", "pdb_saliency", "evaluate", str(maps), str(masks), "--workers", str(workers)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def pysodmetrics(maps: Path, masks: Path, count: int) -> float:
    import py_sod_metrics

    pairs = []
    for path in sorted(maps.glob("*/*.png"))[:count]:
        mask = cv2.imread(str(masks / path.parent.name / path.name), cv2.IMREAD_GRAYSCALE)
        pairs.append((cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.where(mask > 0, np.uint8(255), np.uint8(0))))
    handlers = {
        name: getattr(py_sod_metrics, f"{name}Handler")(with_dynamic=True, with_adaptive=False)
        for name in ("Fmeasure", "Precision", "Recall")
    }
    metrics = [getattr(py_sod_metrics, name)() for name in ("MAE", "Smeasure", "Emeasure")]
    metrics.append(py_sod_metrics.FmeasureV2(handlers))
    begin = time.perf_counter()
    for prediction, mask in pairs:
        for metric in metrics:
            metric.step(prediction, mask)
    return (time.perf_counter() - begin) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path, metavar="MASKS")
    masks = parser.parse_args().masks.resolve()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        count = blurred(masks, Path(folder))
        for workers in dict.fromkeys((1, os.cpu_count() or 1)):
            times = [evaluate(Path(folder), masks, workers) for _ in range(5)]
            rates = sorted(count / seconds for seconds in times)
            rate = f"{statistics.median(rates):.0f} frames/s [{rates[0]:.0f}, {rates[-1]:.0f}]"
            print(f"{count} frames, {workers} processes: {rate}")
        try:
            print(f"pysodmetrics, one core: {1 / pysodmetrics(Path(folder), masks, 40):.0f} frames/s")
        except ImportError:
            print("pysodmetrics is not installed")


if __name__ == "__main__":
    main()
