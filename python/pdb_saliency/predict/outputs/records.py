"""Numbers and masks of each frame for other programs: JSON lines, and COCO."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.runtime.files import replacing

from . import OutputKind
from .result import Result, RunInfo


def measure(result: Result) -> dict[str, Any]:
    """Measurements of the mask.

    area: pixels. box: [left, top, width, height], pixels. centroid: [x, y], where (0, 0) is the centre of the top left
    pixel. confidence: mean saliency on the mask, 0 to 1. The last three are None if the mask is empty.
    """
    area = cv2.countNonZero(result.mask)
    if not area:
        return {"area": 0, "box": None, "centroid": None, "confidence": None}
    moments = cv2.moments(result.mask, binaryImage=True)
    centroid = [round(moments[key] / moments["m00"], 2) for key in ("m10", "m01")]
    confidence = round(cv2.mean(result.map, result.mask)[0] / 255, 4)
    return {"area": area, "box": list(cv2.boundingRect(result.mask)), "centroid": centroid, "confidence": confidence}


class LinesOutput:
    """frames.jsonl: one JSON object per line, written as soon as its frame is done; an interruption leaves whole lines.

    Keys: frame (name), index, time (seconds; null for pictures), width, height, and those of `measure`.
    """

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo):
        self._path = path
        self._file: int | None = None
        self.remarks: list[str] = []

    def write(self, result: Result) -> None:
        height, width = result.map.shape
        line = {"frame": result.frame.name, "index": result.index, "time": result.frame.seconds}
        try:
            if self._file is None:
                self._file = _create(self._path)
            _append(self._file, {**line, "width": width, "height": height, **measure(result)})
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def finish(self) -> None:
        """Every line is complete already."""

    def discard(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class CocoOutput:
    """coco.json: the masks as COCO's compressed run lengths, one annotation for each frame whose mask is not empty.

    Images and annotations are written to hidden files beside it, which `finish` joins.
    Raises SaliencyError without pycocotools, OutputError.
    """

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo):
        try:
            from pycocotools import mask
        except ImportError as error:
            raise SaliencyError(f"--save {kind.name} needs pycocotools: pip install 'pdb-ext[coco]'") from error
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
        """Join the parts, line by line, so that memory does not grow with the video."""
        try:
            with replacing(self._path, self._path.with_name(".coco.json.part")) as temporary:
                with open(temporary, "wb") as file:
                    file.write(b'{"categories": [{"id": 1, "name": "salient object"}]')
                    for name, part in self._parts.items():
                        file.write(f', "{name}": ['.encode())
                        if name in self._files:
                            _copy_lines(part, file)
                        file.write(b"]")
                    file.write(b"}\n")
        except OSError as error:
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
                self._files[name] = _create(self._parts[name])
            _append(self._files[name], entry)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error


def _create(path: Path) -> int:
    """The descriptor of an empty file. Python's own files would buffer what must be written at once."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)


def _append(file: int, entry: dict[str, Any]) -> None:
    """Write the entry as a line of JSON: all of it or, on a full disk, nothing. Raises OSError."""
    line = f"{json.dumps(entry, ensure_ascii=False)}\n".encode("utf-8", "surrogateescape")
    before = os.fstat(file).st_size
    try:
        while line:
            line = line[os.write(file, line) :]
    except OSError:
        os.ftruncate(file, before)
        raise


def _copy_lines(path: Path, file: BinaryIO) -> None:
    with open(path, "rb") as part:
        for number, line in enumerate(part):
            file.write((b",\n" if number else b"\n") + line.rstrip(b"\n"))
