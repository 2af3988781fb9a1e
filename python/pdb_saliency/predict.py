"""The main job: saliency of every frame of a source, in a stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .clips import Clip, clips
from .errors import InputError, SaliencyError
from .frame import Frame, Source
from .postprocess import to_source_size
from .writer import ResultWriter

_DEVICES = r"auto|cpu|mps|(cuda|xpu)(:[0-9]+)?"


def saliency_maps(frames: Iterable[Frame], model: nn.Module, device: torch.device) -> Iterator[tuple[Frame, np.ndarray]]:
    """Each frame with its saliency, float32 (H, W) in [0, 1] at the frame's size; memory does not grow with their number.

    model: a SaliencyModel in eval mode, on `device`.
    Raises InputError where the frames do (after the maps of all frames before), SaliencyError when the model fails.
    """
    for clip in clips(frames):
        if all(frame.known is not None for frame in clip.frames[: clip.kept]):
            yield from ((frame, frame.known / np.float32(255)) for frame in clip.frames[: clip.kept])
            continue
        saliency = _predict_clip(clip, model, device)
        for frame, small in zip(clip.frames[: clip.kept], saliency):  # Fewer frames than maps: the reflected ones go.
            yield frame, to_source_size(small, *frame.image.shape[:2])


def run(source: Source, model: nn.Module, device: torch.device, writer: ResultWriter, progress: bool = True) -> None:
    """Write the results of every frame of the source and finish the writer.

    progress: a bar on stderr, where that is a terminal.
    Raises InputError for a frame that cannot be read, after everything before it has been written; OutputError;
    SaliencyError.
    """
    with tqdm(total=source.count, unit="frame", disable=None if progress else True, dynamic_ncols=True) as bar:
        try:
            for frame, saliency in saliency_maps(source, model, device):
                writer.write(frame, saliency)
                bar.update()
        except InputError as error:
            writer.finish()
            raise InputError(f"{error}; {_frames(writer.frames)} written to {writer.out}") from error
    writer.finish()


def resolve_device(name: str) -> torch.device:
    """The device called `name` ("auto": CUDA where available, else the CPU), proved to work. Raises SaliencyError."""
    if not re.fullmatch(_DEVICES, name):  # torch knows many more, some of which fail in ways of their own.
        raise SaliencyError(f"device {name!r} cannot be used: expected auto, cpu, cuda, cuda:1, ..., mps or xpu")
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch without CUDA.
        raise SaliencyError(f"device {name!r} cannot be used: {_first_line(error)}") from error
    return device


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device. Raises SaliencyError when it does not fit."""
    try:
        return model.to(device)
    except RuntimeError as error:
        raise SaliencyError(f"device '{device}' cannot hold the model: {_first_line(error)}") from error


@torch.inference_mode()
def _predict_clip(clip: Clip, model: nn.Module, device: torch.device) -> np.ndarray:
    """float32 (T, height, width) in [0, 1], at the network's size."""
    try:
        batch = model.input_spec.prepare([frame.image for frame in clip.frames]).unsqueeze(0)
        saliency = torch.sigmoid(model(batch.to(device)))[0, :, 0].float().cpu().numpy()
    except (RuntimeError, MemoryError, cv2.error) as error:  # cv2.error: no memory for the resized frame.
        raise SaliencyError(f"the model failed at frame {clip.frames[0].name}: {_first_line(error)}") from error
    if not np.isfinite(saliency).all():
        raise SaliencyError(f"the model gave values that are not finite at frame {clip.frames[0].name}")
    return saliency


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
