"""Resuming an interrupted run: a record beside the results says what the run was, and its maps are used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdb_saliency.errors import InputError, OutputError, SaliencyError
from pdb_saliency.runtime.files import replacing
from pdb_saliency.video.frame import Frame, Source

from .outputs import OUTPUTS, PICTURES

RECORD = "run.json"
_STORE = ".maps"  # for a run that does not save maps


class RunRecord:
    """The record of a run into the folder `out`, and how much of it an earlier run has done.

    settings: what the results depend on, in JSON types; an earlier run with other settings is not resumed. saves_maps:
    whether maps are among the results; a later run goes on from them. resumable: whether to keep maps for that even if
    they are not.

    Attributes: store (the folder for maps that are kept only for a later run, or None).
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], saves_maps: bool, resumable: bool):
        self._out = out
        self._settings = json.loads(json.dumps(dict(settings)))
        self._path = out / RECORD
        self._maps = out / ("maps" if saves_maps else _STORE)
        self.store = self._maps if resumable and not saves_maps else None

    def earlier(self) -> str | None:
        """The state of the earlier run: "complete", "begun", or None if there was none or its results are gone.

        Raises SaliencyError if it had other settings.
        """
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            settings, complete = record["settings"], bool(record["complete"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if settings != self._settings:
            names = [name for name in self._settings if settings.get(name) != self._settings[name]] or ["version"]
            changes = "; ".join(
                f"{name} {settings.get(name)!s:.80}, now {self._settings.get(name)!s:.80}" for name in names
            )
            raise SaliencyError(f"{self._out}: the earlier run differs ({changes}): leave out --resume to start again")
        if complete:
            return "complete" if self._is_whole(record.get("frames")) else None
        return "begun"

    def begin(self) -> None:
        """Record that this run has begun; maps older than the record are not its own. Raises OutputError."""
        if self.store:
            shutil.rmtree(self.store, ignore_errors=True)
            try:
                self.store.mkdir(exist_ok=True)
            except OSError as error:
                raise OutputError(f"{self.store}: cannot be created ({error.strerror})") from error
        self._write(False)

    def complete(self, frames: int) -> None:
        """Record that the results of `frames` frames are there, and remove maps kept only for resuming."""
        self._write(True, frames)
        if self.store:
            shutil.rmtree(self.store, ignore_errors=True)

    def known(self, source: Source) -> Source:
        """The source, whose first frames carry the maps that the earlier run left, up to the first gap."""
        return _KnownFrames(source, self._maps, self._path.stat().st_mtime_ns)

    def _is_whole(self, frames: object) -> bool:
        """Whether the results of a complete run still exist. frames: how many it recorded, None in old records."""
        for kind in (OUTPUTS[name] for name in self._settings.get("save", ())):
            path = self._out / kind.place
            if kind.form != PICTURES and not path.is_file():
                return False
            if kind.form == PICTURES and _count(path, kind.suffix) < (frames or 1):
                return False
        return True

    def _write(self, complete: bool, frames: int | None = None) -> None:
        text = json.dumps({"complete": complete, "frames": frames, "settings": self._settings}, indent=1)
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, self._out / f".{RECORD}.part") as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error


class _KnownFrames:
    """A source with the maps of an earlier run, those written since `begun`: see Frame.known."""

    def __init__(self, source: Source, maps: Path, begun: int):
        self._source = source
        self._maps = maps
        self._begun = begun  # nanoseconds
        self.count, self.fps, self.files = source.count, source.fps, source.files

    @property
    def remark(self) -> str | None:
        return self._source.remark

    def __iter__(self) -> Iterator[Frame]:
        going_on = True
        for frame in self._source:
            known = self._stored(frame) if going_on else None
            going_on = known is not None  # After a gap everything is computed, so that no clip is cut in two.
            yield replace(frame, known=known)

    def _stored(self, frame: Frame) -> np.ndarray | None:
        """The map, uint8 (H, W); None if it is missing, damaged, or that of another frame or run."""
        path = self._maps / f"{frame.name}{OUTPUTS['maps'].suffix}"
        try:
            data = path.read_bytes() if path.stat().st_mtime_ns >= self._begun else b""
        except OSError:
            return None
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
        fits = image is not None and image.shape == frame.image.shape[:2] and image.dtype == np.uint8
        return image if fits else None


def _count(folder: Path, suffix: str) -> int:
    """The number of complete files with this suffix; hidden ones are not complete."""
    return sum(file.name.endswith(suffix) for file in folder.glob("[!.]*"))


def fingerprint(files: Iterable[str | os.PathLike[str]]) -> str:
    """A digest of the files' paths, sizes and modification times; the files are not read. Raises InputError."""
    digest = hashlib.sha256()
    for path in files:
        try:
            state = os.stat(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        digest.update(
            repr((os.path.abspath(path), state.st_size, state.st_mtime_ns)).encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()[:16]
