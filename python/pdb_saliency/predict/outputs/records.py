"""Numbers and masks of each frame for other programs: JSON lines, and COCO."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdb_saliency.errors import OutputError, SaliencyError

from .result import Result


def measure(result: Result) -> dict[str, Any]:
    """What the mask holds.

    area: pixels. box: [left, top, width, height], pixels; centroid: [x, y], the centre of the top left pixel being (0, 0);
    confidence: mean saliency on the mask, 0 to 1. The last three are None where the mask is empty.
    """
    area = cv2.countNonZero(result.mask)
    if not area:
        return {"area": 0, "box": None, "centroid": None, "confidence": None}
    moments = cv2.moments(result.mask, binaryImage=True)
    centroid = [round(moments[key] / moments["m00"], 2) for key in ("m10", "m01")]
    confidence = round(cv2.mean(result.map, result.mask)[0] / 255, 4)
    return {"area": area, "box": list(cv2.boundingRect(result.mask)), "centroid": centroid, "confidence": confidence}


class LinesOutput:
    """frames.jsonl: an object a line, written whole as soon as its frame is done, so that an interruption leaves the lines.

    Keys: frame (name), index, time (seconds; null for pictures), width, height, and those of `measure`.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: int | None = None
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        height, width = result.map.shape
        line = {"frame": result.frame.name, "index": result.index, "time": result.frame.seconds}
        text = json.dumps({**line, "width": width, "height": height, **measure(result)}, ensure_ascii=False)
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            _append(self._file, f"{text}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def finish(self) -> None:
        """Every line is complete already."""

    def discard(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class CocoOutput:
    """coco.json: the masks as COCO's compressed run lengths, one annotation for each frame that has a mask.

    Written to hidden files beside it, and put together by `finish`. Raises SaliencyError without pycocotools, OutputError.
    """

    def __init__(self, path: Path):
        try:
            from pycocotools import mask
        except ImportError as error:
            raise SaliencyError("--save coco needs pycocotools: pip install 'pdb-ext[coco]'") from error
        self._encode = mask.encode
        self._path = path
        self._parts = {name: path.with_name(f".coco.{name}.part") for name in ("images", "annotations")}
        self._files: dict[str, int] = {}
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        height, width = result.map.shape
        number = result.index + 1  # COCO's tools take 0 for "none".
        image = {"id": number, "file_name": result.frame.name, "width": width, "height": height}
        self._append("images", image)
        found = measure(result)
        if not found["area"]:
            return
        code = self._encode(np.asfortranarray(result.mask // 255))
        annotation = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0}
        segmentation = {"size": [height, width], "counts": code["counts"].decode()}
        details = {"area": found["area"], "bbox": found["box"], "score": found["confidence"]}
        self._append("annotations", {**annotation, "segmentation": segmentation, **details})

    def finish(self) -> None:
        """Puts the file together, without reading the parts into memory as a whole."""
        temporary = self._path.with_name(".coco.json.part")
        try:
            with open(temporary, "wb") as file:
                file.write(b'{"categories": [{"id": 1, "name": "salient object"}]')
                for name, part in self._parts.items():
                    file.write(f', "{name}": ['.encode())
                    if name in self._files:
                        _copy_lines(part, file)
                    file.write(b"]")
                file.write(b"}\n")
            os.replace(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Remove the parts."""
        for name, file in self._files.items():
            os.close(file)
            self._parts[name].unlink(missing_ok=True)
        self._files = {}

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        try:
            if name not in self._files:
                self._files[name] = os.open(self._parts[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            text = json.dumps(entry, ensure_ascii=False)
            _append(self._files[name], f"{text}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error


def _append(file: int, line: bytes) -> None:
    """All of the line or, on a full disk, nothing."""
    before = os.fstat(file).st_size
    try:
        while line:
            line = line[os.write(file, line) :]
    except OSError:
        os.ftruncate(file, before)
        raise


def _copy_lines(path: Path, file: Any) -> None:
    with open(path, "rb") as part:
        for number, line in enumerate(part):
            file.write((b",\n" if number else b"\n") + line.rstrip(b"\n"))
