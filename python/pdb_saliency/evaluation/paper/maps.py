"""Writes those maps of a model on a data set that do not exist yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pdb_saliency.data.sets.items import Dataset, Video
from pdb_saliency.data.sets.read import read_frame
from pdb_saliency.errors import InputError, OutputError
from pdb_saliency.evaluation.validate import annotated_clips
from pdb_saliency.inference.crf import refine
from pdb_saliency.inference.engine import saliency_maps
from pdb_saliency.predict.outputs.result import to_map
from pdb_saliency.runtime.files import write_file
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.frame import Frame
from pdb_saliency.video.pictures import read_picture, write_picture


def write_maps(model: nn.Module, dataset: Dataset, device: torch.device, folder: Path) -> None:
    """Write folder/SEQUENCE/FRAME.png for every annotated frame.

    A sequence is skipped if all its maps exist, can be read, have the size of the frames, and were made from the same
    frames.
    model: a SaliencyModel in eval mode, on `device`. Raises InputError, OutputError, SaliencyError.
    """
    for video in _progress(dataset, "predicting"):
        wanted = _targets(video, folder)
        seen = folder / video.name / ".frames"
        size = read_frame(video.frames[0]).shape
        if _fingerprint(video) == _text(seen) and all(_is_whole(path, size) for path in wanted.values()):
            continue
        seen.unlink(missing_ok=True)
        looked_at = annotated_clips(video)
        frames = (Frame(video.frames[index].stem, read_frame(video.frames[index])) for index in looked_at)
        for index, (_, saliency) in zip(looked_at, saliency_maps(frames, model, device)):
            if index in wanted:
                write_picture(wanted[index], to_map(saliency))
        write_file(seen, _fingerprint(video).encode())


def refine_maps(dataset: Dataset, maps: Path, folder: Path) -> None:
    """Refine the maps that `write_maps` wrote to `maps` with the CRF, and write them to `folder`.

    Refined maps that are newer than their originals are kept. Raises InputError, OutputError.
    """
    for video in _progress(dataset, "CRF"):
        size = read_frame(video.frames[0]).shape
        for index, target in _targets(video, folder).items():
            source = maps / video.name / target.name
            if not (_is_whole(target, size) and target.stat().st_mtime_ns >= source.stat().st_mtime_ns):
                saliency = read_picture(source)[:, :, 0].astype(np.float32) / 255
                write_picture(target, to_map(refine(read_frame(video.frames[index]), saliency)))


def _fingerprint(video: Video) -> str:
    """A digest of the names, sizes and modification times of the frame files."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in video.frames]
    return hashlib.sha256(repr(stats).encode("utf-8", "surrogateescape")).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_whole(path: Path, size: tuple[int, ...]) -> bool:
    """Whether the map can be read and has the frames' size (`check_dataset` has checked that they share one)."""
    try:
        return read_picture(path).shape == size
    except InputError:
        return False


def _progress(dataset: Dataset, what: str) -> Iterable[Video]:
    return progress_bar(f"{what} {dataset.name}", iterable=dataset.videos, unit="video")


def _targets(video: Video, folder: Path) -> dict[int, Path]:
    """Index -> path of the map of each annotated frame. Creates their folder. Raises OutputError."""
    own = folder / video.name
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{own}: cannot be created ({error.strerror})") from error
    return {index: own / f"{video.frames[index].stem}.png" for index, masks in enumerate(video.masks) if masks}
