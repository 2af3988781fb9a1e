"""Results on disk. Every file appears complete or not at all; frames.jsonl grows by complete lines."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.video.frame import Frame

from . import OUTPUTS, PICTURES, OutputKind
from .result import Result, RunInfo, to_map


class Output(Protocol):
    """Writes one kind of result to `path`, its file or its folder of pictures (which exists before the first `write`).

    remarks: lines for the user, after `finish`. Raises SaliencyError if a program or package is missing, before it
    writes anything; OutputError.
    """

    remarks: list[str]

    def __init__(self, kind: OutputKind, path: Path, run: RunInfo): ...

    def write(self, result: Result) -> None: ...

    def finish(self) -> None:
        """Put the file in place. Is not called for a run without frames."""

    def discard(self) -> None:
        """Remove what is not finished. Is always called at the end, even after `finish`."""


class ResultWriter:
    """Writes the results of one run into the folder `out`.

    kinds: names in `OUTPUTS`. run: see `RunInfo`; without a title the report is named after `out`. inputs: files that
    must not be overwritten. store: a folder for the maps that `--resume` needs, for a run that does not save "maps".

    Use it as a context manager. `finish` puts the files of the whole run in place; without it the end of the context
    removes what is unfinished. A picture is always complete. A killed run leaves hidden files (".00012.png.part",
    ".overlay.part.mp4"), which the next run into the same folder overwrites.

    Raises OutputError if the folder or a file cannot be created or written; SaliencyError if a program or package is
    missing.
    """

    def __init__(
        self,
        out: Path,
        kinds: Collection[str],
        run: RunInfo = RunInfo(),
        inputs: Iterable[Path] = (),
        store: Path | None = None,
    ):
        self.out = out
        self.frames = 0
        self._kinds = [kind for kind in OUTPUTS.values() if kind.name in kinds]
        self._threshold = run.threshold
        self._refuse_overwriting(inputs)
        places = [(kind, out / kind.place) for kind in self._kinds]
        if store:
            places.append((OUTPUTS["maps"], store))
        # The map comes last: where it exists, everything else of its frame does too.
        places.sort(key=lambda place: place[0].name == "maps")
        self._outputs: list[Output] = [kind.output_class()(kind, path, run) for kind, path in places]
        _make_folders([out, *(path for kind, path in places if kind.form == PICTURES)])

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """saliency: float32 (H, W) in [0, 1], the size of the frame."""
        map = to_map(saliency) if frame.known is None else frame.known
        result = Result(frame, self.frames, map, self._threshold)
        for output in self._outputs:
            output.write(result)
        self.frames += 1

    def finish(self) -> None:
        """Finish every kind of result, even if some fail; then raise the OutputError of the first that failed."""
        failures = []
        for output in self._outputs if self.frames else ():
            try:
                output.finish()
            except OutputError as error:
                failures.append(error)
                output.discard()  # On a full disk this makes room for the next.
        if failures:
            raise failures[0]

    def outputs(self) -> list[Path]:
        """The folders and files that this run writes."""
        return [self.out / kind.place for kind in self._kinds]

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

        def places(path: Path) -> Iterator[Path]:
            """Where the file's name is, and where its data is."""
            yield resolved[path.parent] / path.name
            if path.is_symlink():
                yield Path(os.path.realpath(path))  # Not Path.resolve, which raises if links form a loop.

        folders = {(self.out / kind.place).resolve() for kind in self._kinds if kind.form == PICTURES}
        files = {self.out.resolve() / kind.place for kind in self._kinds if kind.form != PICTURES}
        for path in inputs:
            if any(place.parent in folders or place in files for place in places(path)):
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
