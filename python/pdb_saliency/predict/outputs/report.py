"""A page to look through the results: one HTML file that needs no other, and no network."""

from __future__ import annotations

import base64
import html
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError

from .records import measure
from .result import Result

MOST_PICTURES = (
    400  # About 15 MB. Of a longer video every second, fourth, ... frame is shown; the curve has all of them.
)
_WIDEST = 480  # Pixels of a picture.
_QUALITY = 80
_TEMPLATE = Path(__file__).with_name("report.html")


class ReportOutput:
    """report.html. title: the name of the input. facts: what was run, shown as it is. fps: of the source, None for pictures.

    Holds at most `MOST_PICTURES` small pictures, and eight bytes a frame. Raises OutputError.
    """

    def __init__(self, path: Path, title: str, facts: Mapping[str, str], fps: float | None, threshold: float):
        self._path = path
        self._title = title
        self._facts = dict(facts)
        self._about = {"fps": fps, "threshold": threshold}
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
        temporary = self._path.with_name(".report.html.part")
        try:
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(self._page())
            os.replace(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Nothing is on the disk before `finish`."""

    def _page(self) -> Iterator[str]:
        """The template with its two holes filled: {{facts}} and {{data}}."""
        before, between, after = _split(_TEMPLATE.read_text(encoding="utf-8"), "{{facts}}", "{{data}}")
        yield before.replace("{{title}}", html.escape(self._title))
        facts = {"frames": str(len(self._area)), "size": self._size, **self._facts}
        if self._stride > 1:
            facts["pictures"] = f"one frame in {self._stride}, at most {_WIDEST} pixels wide"
        for name, value in facts.items():
            yield f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>\n"
        yield between
        curves = {"area": _short(self._area), "confidence": _short(self._confidence)}
        yield f'{{"about": {_json(self._about)},\n"curves": {_json(curves)},\n"pictures": ['
        for number, picture in enumerate(self._pictures):
            yield (",\n" if number else "\n") + _json(picture)
        yield "]}"
        yield after


def _jpeg(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    shrink = min(1, _WIDEST / max(height, width))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return base64.b64encode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()).decode()


def _json(value: object) -> str:
    """Inside <script>, where "</script>" must not occur."""
    return json.dumps(value).replace("<", "\\u003c")


def _short(values: array) -> list[float]:
    return [round(value, 4) for value in values]


def _split(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        part, text = text.split(mark)
        parts.append(part)
    return [*parts, text]
