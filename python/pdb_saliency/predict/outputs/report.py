"""A page for looking through the results: one HTML file that needs no other files and no network."""

from __future__ import annotations

import base64
import html
import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.runtime.files import replacing

from . import OutputKind
from .records import measure
from .result import Result, RunInfo

# About 15 MB. A longer video shows every second, fourth, ... frame; the curve has all of them.
MOST_PICTURES = 400
_WIDEST = 480  # pixels of a picture
_QUALITY = 80  # of JPEG, 0 to 100
_TEMPLATE = Path(__file__).with_name("report.html")


class ReportOutput:
    """report.html. It shows `run.facts` as they are; without `run.title` it is named after its folder.

    Holds at most `MOST_PICTURES` small pictures, and eight bytes for each frame. Raises OutputError.
    """

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo):
        self._path = path
        self._title = run.title or str(path.parent)
        self._facts = dict(run.facts)
        self._about = {"fps": run.fps, "threshold": run.threshold}
        self._pictures: list[tuple[int, str, str, str]] = []  # index, name, frame and map as JPEG in base64
        self._stride = 1
        self._area, self._confidence = array("f"), array("f")
        self._size = ""
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        height, width = result.map.shape
        self._size = self._size or f"{width} x {height}"
        found = measure(result)
        self._area.append(found["area"] / result.map.size)
        self._confidence.append(found["confidence"] or 0)
        if result.index % self._stride:
            return
        self._pictures.append((result.index, result.frame.name, _jpeg(result.frame.image), _jpeg(result.map)))
        if len(self._pictures) > MOST_PICTURES:
            self._pictures = self._pictures[::2]
            self._stride *= 2

    def finish(self) -> None:
        if not self._pictures:
            return
        try:
            with replacing(self._path, self._path.with_name(".report.html.part")) as temporary:
                with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.writelines(self._page())
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Nothing is on the disk before `finish`."""

    def _page(self) -> Iterator[str]:
        """The template with {{title}}, {{facts}} and {{data}} filled in."""
        before, between, after = _split(_TEMPLATE.read_text(encoding="utf-8"), "{{facts}}", "{{data}}")
        yield before.replace("{{title}}", html.escape(self._title))
        facts = {"frames": str(len(self._area)), "size": self._size, **self._facts}
        if self._stride > 1:
            facts["pictures"] = f"one frame in {self._stride}, at most {_WIDEST} pixels wide"
        for name, value in facts.items():
            yield f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>\n"
        yield between
        curves = {"area": _rounded(self._area), "confidence": _rounded(self._confidence)}
        yield f'{{"about": {_json(self._about)},\n"curves": {_json(curves)},\n"pictures": ['
        for number, picture in enumerate(self._pictures):
            yield (",\n" if number else "\n") + _json(picture)
        yield "]}"
        yield after


def _jpeg(image: np.ndarray) -> str:
    """The picture, made smaller if it is large, as JPEG in base64."""
    height, width = image.shape[:2]
    shrink = min(1, _WIDEST / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()).decode()


def _json(value: object) -> str:
    """JSON that can stand inside <script>, where "</script>" must not occur."""
    return json.dumps(value).replace("<", "\\u003c")


def _rounded(values: array) -> list[float]:
    return [round(value, 4) for value in values]


def _split(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        part, text = text.split(mark)
        parts.append(part)
    return [*parts, text]
