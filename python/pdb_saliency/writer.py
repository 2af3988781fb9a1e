"""Results on disk. Every file appears complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

import cv2
import numpy as np

from .errors import OutputError
from .frame import Frame
from .mp4 import Mp4Writer
from .options import KINDS, PICTURES, THRESHOLD
from .postprocess import to_map, to_mask, to_overlay

VIDEO_NAME = "overlay.mp4"


class ResultWriter:
    """Writes the results of one run below the folder `out`.

    kinds: which of `KINDS`. threshold: of the masks. fps: of the video, None for 24.
    inputs: files that must not be overwritten.

    Use as a context manager. `finish` puts the video in place; leaving without it removes the unfinished video, and a
    picture is always complete. What a killed run leaves behind are hidden files (".00012.png.part", ".overlay.part.mp4"),
    which the next run into the same folder overwrites.

    Raises OutputError: the folder or a file cannot be made or written.
    """

    def __init__(
        self,
        out: Path,
        kinds: Collection[str],
        threshold: float = THRESHOLD,
        fps: float | None = None,
        inputs: Iterable[Path] = (),
    ):
        self.out = out
        self.kinds = [kind for kind in KINDS if kind in kinds]
        self.frames = 0
        self._threshold = threshold
        self._refuse_overwriting(inputs)
        try:
            for folder in [out, *(out / kind for kind in PICTURES if kind in kinds)]:
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(None, "no permission to write", folder)
        except OSError as error:
            raise OutputError(f"{error.filename or out}: cannot be written ({error.strerror})") from error
        self._video = Mp4Writer(out / VIDEO_NAME, fps) if "video" in kinds else None

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """saliency: float32 (H, W) in [0, 1], the size of the frame."""
        overlay = to_overlay(frame.image, saliency) if {"overlay", "video"} & set(self.kinds) else None
        if "maps" in self.kinds:
            write_picture(self._picture("maps", frame), to_map(saliency))
        if "masks" in self.kinds:
            write_picture(self._picture("masks", frame), to_mask(saliency, self._threshold))
        if "overlay" in self.kinds:
            write_picture(self._picture("overlay", frame), overlay)
        if self._video:
            self._video.write(overlay)
        self.frames += 1

    def finish(self) -> None:
        if self._video and self.frames:
            self._video.finish()

    def outputs(self) -> list[Path]:
        """The folders and files that this run writes."""
        return [self.out / (VIDEO_NAME if kind == "video" else kind) for kind in self.kinds]

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._video:
            self._video.discard()

    def _picture(self, kind: str, frame: Frame) -> Path:
        return self.out / kind / f"{frame.name}.png"

    def _refuse_overwriting(self, inputs: Iterable[Path]) -> None:
        inputs = list(inputs)
        resolved = {folder: folder.resolve() for folder in {path.parent for path in inputs}}

        def places(path: Path) -> Iterable[Path]:
            """Where the file's name is, and where its data is."""
            yield resolved[path.parent] / path.name
            if path.is_symlink():
                yield Path(os.path.realpath(path))  # Not Path.resolve, which raises where links form a loop.

        written = {(self.out / kind).resolve() for kind in PICTURES if kind in self.kinds}
        video = self.out.resolve() / VIDEO_NAME if "video" in self.kinds else None
        for path in inputs:
            if any(place.parent in written or place == video for place in places(path)):
                raise OutputError(f"{path} is an input, and results would be written over it: choose another output folder")
