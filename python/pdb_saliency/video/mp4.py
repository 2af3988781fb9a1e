"""Write an mp4 file that appears complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError

from .reader import opencv_path

DEFAULT_FPS = 24.0  # For frames that carry no rate; DAVIS has 24.
_MAX_TIME_BASE = 65535  # Of MPEG-4.
_MAX_SIDE = 8190  # MPEG-4 has 13 bits for each.


class Mp4Writer:
    """An mp4 (MPEG-4 Part 2, the one codec that every OpenCV wheel can write) under a temporary name until `finish`.

    The first frame sets the size, made even by repeating the last row or column, as the codec wants, and shrunk when a
    side is longer than 8190. Later frames of another size are scaled to fit, with black bars.
    """

    def __init__(self, path: Path, fps: float | None):
        self._path = path
        self._temporary = path.with_name(
            f".{path.stem[:50]}.part{path.suffix}"
        )  # OpenCV chooses the container by the suffix.
        try:
            self._opencv_path = opencv_path(self._temporary)
        except ValueError as error:
            raise OutputError(str(error)) from error
        self._fps = _encodable_rate(fps or 0)
        self._size: tuple[int, int] | None = None
        self._encoder: cv2.VideoWriter | None = None
        self._frames = 0

    def write(self, image: np.ndarray) -> None:
        if self._encoder is None:
            shrink = min(1, _MAX_SIDE / max(image.shape))
            self._size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
            even = tuple(side + side % 2 for side in self._size)
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._encoder = cv2.VideoWriter(self._opencv_path, codec, self._fps, even)
            if not self._encoder.isOpened():
                raise OutputError(f"{self._path}: OpenCV cannot begin a video of {even[0]}x{even[1]} (a full disk?)")
        width, height = self._size
        image = fit(image, width, height)
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._encoder.write(image) is False:  # OpenCV 5 reports a failure, OpenCV 4 returns None always.
            raise self._failure()
        self._frames += 1

    def finish(self) -> None:
        self._encoder.release()
        # The index is written last, so a video that opens and counts right was written whole.
        check = cv2.VideoCapture(self._opencv_path)
        written = check.get(cv2.CAP_PROP_FRAME_COUNT) if check.isOpened() else 0
        check.release()
        if written != self._frames:
            raise self._failure()
        try:
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Remove what has not been finished."""
        if self._encoder is not None:
            self._encoder.release()
            self._temporary.unlink(missing_ok=True)

    def _failure(self) -> OutputError:
        return OutputError(f"{self._path}: the video cannot be written completely (a full disk?)")


def _encodable_rate(fps: float) -> float:
    """The nearest rate with as many decimals, at most three, as the codec can count in; 24 for none that it can."""
    for decimals in (3, 2, 1, 0):
        rate = round(fps, decimals)
        if (
            0.01 <= rate and rate * 10**decimals < _MAX_TIME_BASE + 0.5
        ):  # OpenCV makes a fraction of it, in just this way.
            return rate
    return DEFAULT_FPS


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale to fit into width x height, keeping the aspect ratio, centred on black (with alpha: on nothing)."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.zeros((height, width, image.shape[2]), np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return canvas
