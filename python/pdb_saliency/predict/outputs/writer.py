"""Results on disk. Every file appears complete or not at all; frames.jsonl grows by complete lines."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.options import FILES, KINDS, PICTURES, RECORDS, THRESHOLD, VIDEOS
from pdb_saliency.video.frame import Frame
from pdb_saliency.video.pictures import write_picture

from .pictures import PictureOutput
from .postprocess import to_map
from .records import CocoOutput, LinesOutput
from .report import ReportOutput
from .result import Result
from .videos import Film, VideoOutput

__all__ = ["ResultWriter", "write_picture"]


class Output(Protocol):
    """One kind of result. remarks: lines for the user, after `finish`. `discard` removes what is not finished."""

    remarks: list[str]

    def write(self, result: Result) -> None: ...
    def finish(self) -> None: ...
    def discard(self) -> None: ...


class ResultWriter:
    """Writes the results of one run below the folder `out`.

    kinds: which of `KINDS`. threshold: of the masks. fps: of the videos, None for 24. inputs: files that must not be
    overwritten. film: what else the videos need to know of the source. title, facts: of the report. store: a folder for the
    maps from which `--resume` goes on, where "maps" are not among the kinds.

    Use as a context manager. `finish` puts the files of the whole run in place; leaving without it removes the unfinished
    ones, and a picture is always complete. What a killed run leaves behind are hidden files (".00012.png.part",
    ".overlay.part.mp4"), which the next run into the same folder overwrites.

    Raises OutputError: the folder or a file cannot be made or written; SaliencyError: a program or package is missing.
    """

    def __init__(
        self,
        out: Path,
        kinds: Collection[str],
        threshold: float = THRESHOLD,
        fps: float | None = None,
        inputs: Iterable[Path] = (),
        *,
        film: Film | None = None,
        title: str = "",
        facts: Mapping[str, str] | None = None,
        store: Path | None = None,
    ):
        self.out = out
        self.kinds = [kind for kind in KINDS if kind in kinds]
        self.frames = 0
        self._threshold = threshold
        self._refuse_overwriting(inputs)
        film = film or Film(fps)
        self._outputs: list[Output] = []
        for kind in self.kinds:
            path = out / FILES.get(kind, kind)
            if kind in VIDEOS:
                self._outputs.append(VideoOutput(kind, path, film))
            elif kind in RECORDS:
                report = {"title": title or str(out), "facts": facts or {}, "fps": film.fps, "threshold": threshold}
                made = {"json": LinesOutput, "coco": CocoOutput, "report": lambda path: ReportOutput(path, **report)}
                self._outputs.append(made[kind](path))
            elif kind != "maps":
                self._outputs.append(PictureOutput(kind, path))
        # The map comes last: where it is, everything else of its frame is, too.
        maps = [out / "maps"] if "maps" in self.kinds else [store] if store else []
        self._outputs += [PictureOutput("maps", folder) for folder in maps]
        _make_folders([out, *(out / kind for kind in PICTURES if kind in kinds), *maps])

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """saliency: float32 (H, W) in [0, 1], the size of the frame."""
        map = to_map(saliency) if frame.known is None else frame.known
        result = Result(frame, self.frames, map, self._threshold)
        for output in self._outputs:
            output.write(result)
        self.frames += 1

    def finish(self) -> None:
        """Finish every kind of result. Raises OutputError for the first that fails, after the others."""
        failures = []
        for output in self._outputs if self.frames else ():
            try:
                output.finish()
            except OutputError as error:
                failures.append(error)
                output.discard()  # On a full disk that makes room for the next.
        if failures:
            raise failures[0]

    def outputs(self) -> list[Path]:
        """The folders and files that this run writes."""
        return [self.out / FILES.get(kind, kind) for kind in self.kinds]

    def remarks(self) -> list[str]:
        """Lines for the user, after `finish`."""
        return [remark for output in self._outputs for remark in output.remarks]

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        for output in self._outputs:
            output.discard()

    def _refuse_overwriting(self, inputs: Iterable[Path]) -> None:
        inputs = list(inputs)
        resolved = {folder: folder.resolve() for folder in {path.parent for path in inputs}}

        def places(path: Path) -> Iterable[Path]:
            """Where the file's name is, and where its data is."""
            yield resolved[path.parent] / path.name
            if path.is_symlink():
                yield Path(os.path.realpath(path))  # Not Path.resolve, which raises where links form a loop.

        written = {(self.out / kind).resolve() for kind in PICTURES if kind in self.kinds}
        files = {self.out.resolve() / name for kind, name in FILES.items() if kind in self.kinds}
        for path in inputs:
            if any(place.parent in written or place in files for place in places(path)):
                raise OutputError(
                    f"{path} is an input, and results would be written over it: choose another output folder"
                )


def _make_folders(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(None, "no permission to write", folder)
        except OSError as error:
            raise OutputError(f"{error.filename or folder}: cannot be written ({error.strerror})") from error
