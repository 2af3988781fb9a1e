"""Videos of the results, at a constant frame rate, with the sound of the source."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.runtime.files import replacing
from pdb_saliency.video.encoder import (
    DEFAULT_FPS,
    FfmpegWriter,
    Mp4Writer,
    add_sound,
    can_encode,
    find_ffmpeg,
    fit,
    has_sound,
    require,
)

from . import OutputKind
from .result import Result, RunInfo

_CODECS = {".mp4": "h264", ".webm": "vp9", ".mov": "prores"}
_LARGEST = 16384  # pixels of a side, in H.264 and VP9
_LONGEST_STILL = 10.0  # seconds beyond the declared end; later time stamps are taken for wrong


class VideoOutput:
    """One part of each frame's results (`kind.part`) as a video; the suffix of `path` decides the codec.

    The frame rate is the source's. If the source shows its frames at irregular times (variable frame rate), frames are
    repeated or left out, so that each appears within half a frame of its time and stays with the sound.

    mp4 is H.264 if ffmpeg is installed, else MPEG-4 Part 2. Raises SaliencyError without an ffmpeg for the other
    formats, OutputError.
    """

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo):
        self._part = kind.part
        self._run = run
        self._path = path
        self._fps = run.fps or DEFAULT_FPS
        self.remarks: list[str] = []
        codec = _CODECS[path.suffix]
        if codec != "h264":
            require(codec, f"--save {kind.name}")
        self._by_ffmpeg = can_encode(codec)
        self._encoder = FfmpegWriter(path, self._fps, codec) if self._by_ffmpeg else Mp4Writer(path, run.fps)
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
        if not self._by_ffmpeg:
            self._encoder.finish()
        else:
            try:
                with replacing(self._path, self._encoder.finish()) as temporary:
                    self._add_sound(temporary)
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._repeated or self._left_out:
            changed = f"{self._repeated} frames repeated, {self._left_out} left out"
            self.remarks.append(f"{self._path}: the source's frame rate varies: {changed}, to keep time")
        if self._run.sound and find_ffmpeg() is None and has_sound(self._run.sound):
            self.remarks.append(f"{self._path}: without the source's sound, because ffmpeg is not installed")

    def discard(self) -> None:
        """Remove what has not been finished."""
        self._encoder.discard()

    def _encode(self, image: np.ndarray) -> None:
        self._encoder.write(image)
        self._written += 1

    def _due(self, seconds: float | None) -> int | None:
        """The index in the video of the frame that is shown at `seconds`; None after a missing or wrong time stamp."""
        if seconds is None or not self._run.fps or not self._timed:
            self._timed = False
            return None
        due = round(seconds * self._fps)
        self._timed = due <= max(self._run.count or 0, self._written) + _LONGEST_STILL * self._fps
        return due if self._timed else None

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """The image at the size of the first one, with even sides for the codecs. Mp4Writer does that itself."""
        if not self._by_ffmpeg:
            return image
        if self._size is None:
            shrink = min(1, _LARGEST / max(image.shape))
            self._size = tuple(max(1, round(side * shrink)) for side in image.shape[1::-1])
        width, height = self._size
        image = fit(image, width, height)
        return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)

    def _add_sound(self, video: Path) -> None:
        sound = self._run.sound
        if sound and has_sound(sound) and not add_sound(video, sound, self._written / self._fps):
            self.remarks.append(f"{self._path}: without the source's sound, which ffmpeg cannot carry over")
