"""Videos of the results, at a constant rate, with the sound of the source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.video.encoder import FfmpegWriter, add_sound, can_encode, find_ffmpeg, has_sound, require
from pdb_saliency.video.mp4 import DEFAULT_FPS, Mp4Writer, fit

from .result import Result

_LARGEST = 16384  # Pixels a side: of H.264 and VP9.
_LONGEST_STILL = 10.0  # Seconds beyond the declared end at which time stamps are no longer believed.


@dataclass(frozen=True)
class Film:
    """Of the source: fps, frames per second, None for pictures; count, the frames it declares; sound, a file with a track."""

    fps: float | None = None
    count: int | None = None
    sound: Path | None = None


class VideoOutput:
    """One of the results of each frame as a video; which, and in which codec, says `kind`, one of options.VIDEOS.

    The rate is that of the source. Where its frames are not shown at regular times (variable frame rate), frames are
    repeated or left out, so that each is seen within half a frame of its time and stays with the sound.

    mp4 is H.264 where ffmpeg is at hand, else MPEG-4 Part 2. Raises SaliencyError without an ffmpeg for the other formats,
    OutputError. remarks: lines for the user, after `finish`.
    """

    def __init__(self, kind: str, path: Path, film: Film):
        self._part = {"video": "overlay", "side-video": "side"}.get(kind, "cutout")
        self._film = film
        self._path = path
        self._fps = film.fps or DEFAULT_FPS
        self.remarks: list[str] = []
        codec = {".mp4": "h264", ".webm": "vp9", ".mov": "prores"}[path.suffix]
        if codec != "h264":
            require(codec, f"--save {kind}")
        by_ffmpeg = can_encode(codec)
        self._encoder = FfmpegWriter(path, self._fps, codec) if by_ffmpeg else Mp4Writer(path, film.fps)
        self._fitted = by_ffmpeg
        self._size: tuple[int, int] | None = None
        self._written = self._repeated = self._left_out = 0
        self._last: np.ndarray | None = None
        self._timed = True

    def write(self, result: Result) -> None:
        image = self._prepared(getattr(result, self._part))
        due = self._due(result.frame.seconds)
        if due is None:
            self._encode(image)
            return
        while self._written < due:
            self._repeated += 1
            self._encode(self._last if self._last is not None else image)
        if due == self._written:
            self._encode(image)
        else:
            self._left_out += 1
        self._last = image

    def finish(self) -> None:
        if not self._written:
            return
        if not self._fitted:
            self._encoder.finish()
        else:
            temporary = self._encoder.finish()
            self._add_sound(temporary)
            try:
                os.replace(temporary, self._path)
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._repeated or self._left_out:
            changed = f"{self._repeated} frames repeated, {self._left_out} left out"
            self.remarks.append(f"{self._path}: the source's frame rate varies: {changed}, to keep time")
        if self._film.sound and find_ffmpeg() is None and has_sound(self._film.sound):
            self.remarks.append(f"{self._path}: without the source's sound, for want of ffmpeg")

    def discard(self) -> None:
        """Remove what has not been finished."""
        self._encoder.discard()

    def _encode(self, image: np.ndarray) -> None:
        self._encoder.write(image)
        self._written += 1

    def _due(self, seconds: float | None) -> int | None:
        """The place in the video of the frame that is shown at `seconds`; None where that cannot be told any more."""
        if seconds is None or not self._film.fps or not self._timed:
            self._timed = False
            return None
        due = round(seconds * self._fps)
        self._timed = due <= max(self._film.count or 0, self._written) + _LONGEST_STILL * self._fps
        return due if self._timed else None

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """At the size of the first one, with even sides, as the codecs want them. Mp4Writer does that itself."""
        if not self._fitted:
            return image
        if self._size is None:
            shrink = min(1, _LARGEST / max(image.shape))
            self._size = tuple(max(1, round(side * shrink)) for side in image.shape[1::-1])
        width, height = self._size
        image = fit(image, width, height)
        return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)

    def _add_sound(self, video: Path) -> None:
        sound = self._film.sound
        if sound and has_sound(sound) and not add_sound(video, sound, self._written / self._fps):
            self.remarks.append(f"{self._path}: without the source's sound, which ffmpeg cannot carry over")
