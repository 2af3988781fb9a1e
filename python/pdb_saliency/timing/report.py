"""The measurements of `pdb-saliency bench` as a table and as JSON."""

from __future__ import annotations

import datetime
import json
import platform
import statistics

import cv2
import torch

import pdb_ext
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.saliency import SaliencyModel

from .stages import Timings


def describe(timings: Timings, model: SaliencyModel, engine: Engine) -> dict[str, str]:
    """What was measured, where and when."""
    options = engine.options
    height, width = model.input_spec.height, model.input_spec.width
    versions = {"pdb_ext": pdb_ext.__version__, "torch": torch.__version__, "opencv": cv2.__version__}
    versions["Python"] = platform.python_version()
    return {
        "model": model.description,
        "input": f"{height}x{width}, clips of {options.clip_length}, overlap {options.overlap}, batch {engine.batch}",
        "device": _device_name(engine.device),
        "precision": f"{str(engine.dtype).removeprefix('torch.')}{', compiled' if options.compile else ''}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "date": datetime.date.today().isoformat(),
        "check": f"relative RMS difference from the plain float32 model {timings.difference:.1e}",
        "rounds": str(len(timings.seconds["floor"])),
    }


def table(timings: Timings, model: SaliencyModel, engine: Engine) -> str:
    """Milliseconds per frame, median and quartiles; for the network and end to end also the floor's share."""
    lines = [f"{name:<10} {text}" for name, text in describe(timings, model, engine).items()]
    lines += ["", f"{'stage':<25} {'ms/frame':>9} {'quartiles':>19} {'frames/s':>9}  floor's share"]
    for stage, seconds in timings.seconds.items():
        low, median, high = (1e3 * value for value in statistics.quantiles(seconds, n=4))
        share = f"{timings.ratio('floor', stage):13.1%}" if stage in ("network", "end to end") else ""
        quartiles = f"[{low:.2f}, {high:.2f}]"
        lines.append(f"{stage:<25} {median:9.2f} {quartiles:>19} {1e3 / median:9.1f}  {share}".rstrip())
    rate = timings.floor_gmac / timings.median("floor")
    gmac = f"{timings.floor_gmac:.2f} billion multiplications per frame, {rate:.1f} billion/s"
    lines += ["", f"floor: the convolutions alone, {gmac}"]
    return "\n".join(lines)


def to_json(timings: Timings, model: SaliencyModel, engine: Engine) -> str:
    """The description, and the seconds per frame in every round."""
    content = {
        **describe(timings, model, engine),
        "relative_rms_difference": timings.difference,
        "floor_gmac_per_frame": timings.floor_gmac,
        "end_to_end_frames": timings.frames,
        "median_frames_per_second": {stage: 1 / timings.median(stage) for stage in timings.seconds},
        "floor_over_network": timings.ratio("floor", "network"),
        "floor_over_end_to_end": timings.ratio("floor", "end to end"),
        "seconds_per_frame": timings.seconds,
    }
    return json.dumps(content, indent=1) + "\n"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = (line.split(":")[1].strip() for line in file if line.startswith("model name"))
            name = next(names, platform.machine())
    except OSError:
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
