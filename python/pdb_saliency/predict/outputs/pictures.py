"""A picture for every frame, a folder for every kind."""

from __future__ import annotations

from pathlib import Path

from pdb_saliency.video.pictures import write_picture

from .result import Result

_PARTS = {"maps": "map", "masks": "mask"}  # Of a Result; the other kinds have the name of their part.


class PictureOutput:
    """folder/NAME.png of each frame; kind: one of options.PICTURES. A picture that an earlier run left is kept."""

    def __init__(self, kind: str, folder: Path):
        self._part = _PARTS.get(kind, kind)
        self._folder = folder
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        path = self._folder / f"{result.frame.name}.png"
        if result.frame.known is None or not path.exists():
            write_picture(path, getattr(result, self._part))

    def finish(self) -> None:
        """Every picture is complete already."""

    def discard(self) -> None:
        """Nothing is unfinished."""
