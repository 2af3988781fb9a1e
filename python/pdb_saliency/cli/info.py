"""What `pdb-saliency info` prints."""

from __future__ import annotations

import re

import cv2
import numpy as np
import torch

import pdb_ext
from pdb_saliency.model.weights import weight_names


def describe(details: bool = False) -> str:
    """The build of the layer library, the libraries beside it, the devices, and the weights that have a name.

    details: also PyTorch's own account of its build.
    """
    build = pdb_ext.build_info()
    libraries = {"numpy": np.__version__, "opencv": cv2.__version__, "opencv video": _video_backends()}
    lines = _listing({"build": build, "libraries": libraries, "devices": _devices(), "weights": weight_names()})
    if details:
        lines += ["pytorch:", *(f"  {line.strip()}" for line in torch.__config__.show().splitlines())]
    return "\n".join(lines)


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        devices[f"cuda:{index}"] = f"{properties.name}, sm_{properties.major}{properties.minor}, {memory:.0f} GiB"
    return devices


def _video_backends() -> str:
    """OpenCV's readers of video files, with the version of FFmpeg's decoders."""
    backends = cv2.videoio_registry.getStreamBackends()
    names = [
        cv2.videoio_registry.getBackendName(backend) for backend in backends if cv2.videoio_registry.hasBackend(backend)
    ]
    version = re.search(r"avcodec:\s+YES \(([\d.]+)\)", cv2.getBuildInformation())
    return ", ".join(f"{name} (avcodec {version[1]})" if name == "FFMPEG" and version else name for name in names)


def _listing(values: dict, indent: str = "") -> list[str]:
    """One line a value, nested dicts indented; None is left out."""
    width = max((len(str(key)) for key, value in values.items() if not isinstance(value, dict)), default=0)
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_listing(value, indent + "  ")]
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            lines.append(f"{indent}{key:<{width}}  {text}")
    return lines
