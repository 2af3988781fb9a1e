"""A picture for every frame, in one folder for each kind."""

from __future__ import annotations

from pathlib import Path

from pdb_saliency.video.pictures import write_picture

from . import OutputKind
from .result import Result, RunInfo


class PictureOutput:
    """A PNG for each frame, named after it. If an earlier run left the frame's map, a picture that exists is kept."""

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo):
        self._part = kind.part
        self._folder = path
        self._suffix = kind.suffix
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        path = self._folder / f"{result.frame.name}{self._suffix}"
        if result.frame.known is None or not path.exists():
            write_picture(path, getattr(result, self._part))

    def finish(self) -> None:
        """Every picture is complete already."""

    def discard(self) -> None:
        """No picture is unfinished."""
