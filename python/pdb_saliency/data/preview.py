"""Training clips as a contact sheet, for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from pdb_saliency.errors import InputError
from pdb_saliency.model.input import InputSpec
from pdb_saliency.video.pictures import write_picture

from .clip import TrainingClip

_HEIGHT = 160  # Of a frame on the sheet, in pixels.
_WIDEST = 400
_CAPTION = 16  # Height of the line with the name, in pixels.
_CONTOUR = ((0, 0, 0), (0, 255, 255))  # BGR: yellow on black, visible on any background.


class PreparedClips(Protocol):
    """What `preview` needs of a SampleStream: `spec`, and samples by number."""

    spec: InputSpec

    def __getitem__(self, number: int) -> dict[str, Any]: ...


def preview(stream: PreparedClips, count: int, path: Path) -> None:
    """Writes the first `count` clips of a stream, as the network sees them, by `preview_sheet`. Raises OutputError."""
    preview_sheet([to_clip(stream[number], stream.spec) for number in range(count)], path)


def preview_sheet(clips: Sequence[TrainingClip], path: Path) -> None:
    """Writes clips as a contact sheet (PNG): a row for each clip, below its name, with a column for each frame.

    The mask's outline is yellow; a frame without a mask (None) has a red border. The file is written completely or not
    at all. Raises InputError if there is no clip, OutputError if the file cannot be written.
    """
    if not clips:
        raise InputError("a contact sheet needs at least one clip, got none")
    rows = [_row(clip) for clip in clips]
    width = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(0, 0, 0)) for row in rows
    ]
    write_picture(path, np.concatenate(rows))


def to_clip(sample: dict[str, Any], spec: InputSpec) -> TrainingClip:
    """Turns a stream's sample ("clip", "mask", "valid", "name") back into pictures, of the network's input size."""
    mean, std = (np.asarray(values, np.float32) for values in (spec.mean, spec.std))
    pixels = sample["clip"].numpy().transpose(0, 2, 3, 1) * std + mean
    frames = np.rint(pixels.clip(0, 255)).astype(np.uint8)
    frames = frames if spec.bgr else frames[..., ::-1]
    masks = [
        np.where(mask[0].numpy() >= 0.5, np.uint8(255), np.uint8(0)) if valid else None
        for mask, valid in zip(sample["mask"], sample["valid"])
    ]
    return TrainingClip(sample["name"], [np.ascontiguousarray(frame) for frame in frames], masks)


def _row(clip: TrainingClip) -> np.ndarray:
    row = np.concatenate([_cell(frame, mask) for frame, mask in zip(clip.frames, clip.masks)], axis=1)
    caption = np.zeros((_CAPTION, row.shape[1], 3), np.uint8)
    name = clip.name.encode("ascii", "replace").decode()  # OpenCV's font has no other letters.
    cv2.putText(caption, name, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([caption, row])


def _cell(frame: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    width = min(max(round(_HEIGHT * frame.shape[1] / frame.shape[0]), 1), _WIDEST)
    image = cv2.resize(frame, (width, _HEIGHT), interpolation=cv2.INTER_AREA)
    if mask is None:
        image = cv2.rectangle(image, (0, 0), (width - 1, _HEIGHT - 1), (0, 0, 255), 2)
    else:
        mask = cv2.resize(mask, (width, _HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
        outlines = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        for colour, thickness in zip(_CONTOUR, (3, 1)):
            cv2.drawContours(image, outlines, -1, colour, thickness)
    return cv2.copyMakeBorder(image, 0, 2, 0, 2, cv2.BORDER_CONSTANT, value=(0, 0, 0))
