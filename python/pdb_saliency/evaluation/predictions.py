"""Which map belongs to which mask."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.data.sets.layouts import pictures_in, subfolders
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.metrics.davis import scored_frames

from .pairs import STILLS, Truth

_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """sequence, frame: their names; the sequence of a still is "". prediction: a map. masks: their union is the mask.

    counts: for J and F, which leave out the first and the last frame of a sequence.
    """

    sequence: str
    frame: str
    prediction: Path
    masks: tuple[Path, ...]
    counts: bool


@dataclass(frozen=True)
class Task:
    """The maps of one method on one data set. missing: masks without a map. extra: maps without a mask."""

    method: str
    dataset: str
    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def tell_missing(self) -> str:
        count = len(self.missing)
        total = len(self.pairs) + count
        return f"{self.method} on {self.dataset}: {count} of {total} predictions are missing: {_first(self.missing)}"

    def tell_extra(self) -> str:
        count = len(self.extra)
        return f"{self.method} on {self.dataset}: passed over, for want of a mask, {count}: {_first(self.extra)}"


def find_tasks(folder: Path, truths: Sequence[Truth]) -> list[Task]:
    """The predictions in `folder`: of one method, or of several in a folder each.

    A method's folder holds SEQUENCE/FRAME.png, or FRAME.png for stills; with several data sets, DATASET/SEQUENCE/FRAME.png.
    FRAME.png may lie in a folder "maps", where `predict` puts it.
    Raises InputError when nothing matches.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'} of predictions")
    tasks = _tasks_of_method(folder, truths)
    if not tasks:
        tasks = [task for child in subfolders(folder) for task in _tasks_of_method(child, truths)]
    if not tasks:
        truth = truths[0]
        sequence, frames = next(iter(truth.masks.items()))
        expected = folder / sequence / f"{next(iter(frames))}.png"
        raise InputError(
            f"{folder}: no prediction has the name of a mask of {truth.name}; expected for example {expected}"
        )
    return tasks


def _tasks_of_method(folder: Path, truths: Sequence[Truth]) -> list[Task]:
    tasks = []
    for truth in truths:
        own = folder / truth.name
        candidates = [own] if own.is_dir() else []
        if len(truths) == 1:
            candidates.append(folder)
        found = (match(folder.resolve().name, candidate, truth) for candidate in candidates)
        tasks += [task for task in found if task.pairs][:1]
    return tasks


def match(method: str, folder: Path, truth: Truth) -> Task:
    """The maps folder/SEQUENCE/FRAME.png, or folder/FRAME.png of stills, and what is missing or too many."""
    pairs, missing, extra = [], [], []
    for sequence, frames in truth.masks.items():
        maps = _maps(folder / sequence)
        counted = set(frames if sequence == STILLS else list(frames)[scored_frames(len(frames))])
        for frame, masks in frames.items():
            if frame in maps:
                pairs.append(Pair(sequence, frame, maps[frame], masks, frame in counted))
            else:
                missing.append(_label(sequence, frame))
        extra += [
            _label(sequence, frame)
            for frame in maps
            if frame not in frames and (sequence, frame) not in truth.unannotated
        ]
    known = {*truth.masks, *(sequence for sequence, _ in truth.unannotated)}
    if STILLS not in known and folder.is_dir():
        others = (child for child in subfolders(folder) if child.name not in known)
        extra += [_label(child.name, frame) for child in others for frame in _maps(child)]
    return Task(method, truth.name, tuple(pairs), tuple(missing), tuple(extra))


def _maps(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    inner = folder / "maps"
    return pictures_in(inner if inner.is_dir() else folder)


def _label(sequence: str, frame: str) -> str:
    return frame if sequence == STILLS else f"{sequence}/{frame}"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
