"""Writes the maps of a model on a data set, where they are not there yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..crf import refine
from ..data.items import Dataset, Video
from ..data.read import read_frame
from ..errors import OutputError
from ..frame import Frame
from ..pictures import read_picture
from ..postprocess import to_map
from ..predict import saliency_maps
from ..writer import write_picture
from .validate import annotated_clips


def write_maps(model: nn.Module, dataset: Dataset, device: torch.device, folder: Path) -> None:
    """folder/SEQUENCE/FRAME.png for every annotated frame. A sequence whose maps are all there is passed over.

    model: a SaliencyModel in eval mode, on `device`. Raises InputError, OutputError, SaliencyError.
    """
    for video in _progress(dataset, "predicting"):
        wanted = _targets(video, folder)
        if all(path.is_file() for path in wanted.values()):
            continue
        looked_at = annotated_clips(video)
        frames = (Frame(video.frames[index].stem, read_frame(video.frames[index])) for index in looked_at)
        for index, (_, saliency) in zip(looked_at, saliency_maps(frames, model, device)):
            if index in wanted:
                write_picture(wanted[index], to_map(saliency))


def refine_maps(dataset: Dataset, maps: Path, folder: Path) -> None:
    """The maps that `write_maps` wrote to `maps`, after the CRF, to `folder`. Frames that are there are passed over."""
    for video in _progress(dataset, "CRF"):
        for index, target in _targets(video, folder).items():
            if not target.is_file():
                saliency = read_picture(maps / video.name / target.name)[:, :, 0].astype(np.float32) / 255
                write_picture(target, to_map(refine(read_frame(video.frames[index]), saliency)))


def _progress(dataset: Dataset, what: str) -> tqdm:
    return tqdm(dataset.videos, desc=f"{what} {dataset.name}", unit="video", disable=None, dynamic_ncols=True)


def _targets(video: Video, folder: Path) -> dict[int, Path]:
    """The map of each annotated frame, in a folder that exists."""
    own = folder / video.name
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{own}: cannot be made ({error.strerror})") from error
    return {index: own / f"{video.frames[index].stem}.png" for index, masks in enumerate(video.masks) if masks}
