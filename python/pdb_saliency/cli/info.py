"""`pdb-saliency info`: the build, the libraries, the devices and the weights that have a name."""

from __future__ import annotations

import argparse
import re
from typing import Any

from .arguments import add_command, add_verbosity
from .console import Verbosity, write


def add_parser(commands: Any) -> None:
    description = "Print the build and the devices."
    parser = add_command(commands, "info", info, help="the build and the devices", description=description)
    add_verbosity(parser, "print only errors and the listing", "also report how PyTorch was built")


def info(arguments: argparse.Namespace) -> None:
    import cv2
    import numpy as np
    import torch

    import pdb_ext
    from pdb_saliency.model.weights import weight_names

    libraries = {"numpy": np.__version__, "opencv": cv2.__version__, "opencv video": _video_backends()}
    sections = {"build": pdb_ext.build_info(), "libraries": libraries, "devices": _devices(), "weights": weight_names()}
    lines = _listing(sections)
    if Verbosity.verbose:
        lines += ["pytorch:", *(f"  {line.strip()}" for line in torch.__config__.show().splitlines())]
    write("\n".join(lines))


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        devices[f"cuda:{index}"] = f"{properties.name}, sm_{properties.major}{properties.minor}, {memory:.0f} GiB"
    return devices


def _video_backends() -> str:
    """OpenCV's readers of video files, with the version of FFmpeg's decoders."""
    import cv2

    registry = cv2.videoio_registry
    backends = [backend for backend in registry.getStreamBackends() if registry.hasBackend(backend)]
    names = map(registry.getBackendName, backends)
    version = re.search(r"avcodec:\s+YES \(([\d.]+)\)", cv2.getBuildInformation())
    return ", ".join(f"{name} (avcodec {version[1]})" if name == "FFMPEG" and version else name for name in names)


def _listing(values: dict, indent: str = "") -> list[str]:
    """One line per value, nested dicts indented; values that are None are left out."""
    width = max((len(str(key)) for key, value in values.items() if not isinstance(value, dict)), default=0)
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_listing(value, indent + "  ")]
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{key:<{width}}  {text}")
    return lines
