"""Pairs of a predicted map and the mask of the same frame: finds the masks, and the predictions that belong to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.data.sets.layouts import pictures_in, subfolders
from pdb_saliency.errors import InputError

from .metrics.davis import scored_frames

STILLS = ""  # The key of images that belong to no sequence.
_SHOWN = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """The ground truth of a data set.

    name: of the data set. masks: sequence -> frame name -> the files whose union is the mask, frames in temporal order;
    images that belong to no sequence are in the sequence "".
    unannotated: (sequence, frame) of the frames without a mask. A method may have predicted them nevertheless.
    """

    name: str
    masks: dict[str, dict[str, tuple[Path, ...]]]
    unannotated: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Pair:
    """sequence, frame: their names; the sequence of a still is "". prediction: the map. masks: their union is the mask.

    counts: whether it counts for J and F, which leave out the first and the last frame of a sequence.
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

    @property
    def name(self) -> str:
        return f"{self.method} on {self.dataset}"

    def describe_missing(self) -> str:
        count = len(self.missing)
        total = len(self.pairs) + count
        return f"{self.name}: {count} of {total} predictions are missing: {_first(self.missing)}"

    def describe_extra(self) -> str:
        return f"{self.name}: maps without a mask, ignored: {len(self.extra)} ({_first(self.extra)})"


# Masks


def open_truths(texts: Sequence[str], data_root: Path | None = None) -> list[Truth]:
    """`open_truth` of each text. Raises InputError as that does, or if two have the same name."""
    truths = [open_truth(text, data_root) for text in texts]
    names = [truth.name for truth in truths]
    if len(set(names)) < len(names):
        raise InputError(f"the data sets need different names, got {', '.join(names)}; rename them with NAME=GT")
    return truths


def open_truth(text: str, data_root: Path | None = None) -> Truth:
    """The ground truth that the command line names by [NAME=]PLACE.

    PLACE is a folder of masks (stills), a folder of folders of masks (sequences), the folder of a data set, or the name
    of one that `open_dataset` finds below `data_root`. NAME is used in the results.
    Raises InputError if nothing is there, or if it contains no masks.
    """
    name, separator, place = text.partition("=")
    if not separator:
        name, place = "", text
    if not place:
        raise InputError(f"expected a folder of masks or a data set, got {text!r}")
    try:
        truth = truth_of(open_dataset(place, data_root))
    except InputError as error:
        if not Path(place).is_dir():
            raise
        truth = _folder_of_masks(Path(place))
        if not truth.masks:
            forms = "MASKS/NAME.png or MASKS/SEQUENCE/NAME.png"
            raise InputError(f"{place}: neither masks ({forms}) nor a data set") from error
    if not truth.masks:
        raise InputError(f"{place}: a data set without any mask")
    return replace(truth, name=name) if name else truth


def truth_of(dataset: Dataset) -> Truth:
    """The masks of a data set. Each has the name of its frame's file, as the predicted map has."""
    masks = {STILLS: {still.image.stem: (still.mask,) for still in dataset.stills}} if dataset.stills else {}
    unannotated = set()
    for video in dataset.videos:
        masks[video.name] = {frame.stem: paths for frame, paths in zip(video.frames, video.masks) if paths}
        unannotated |= {(video.name, frame.stem) for frame, paths in zip(video.frames, video.masks) if not paths}
    return Truth(dataset.name, {name: frames for name, frames in masks.items() if frames}, frozenset(unannotated))


def _folder_of_masks(folder: Path) -> Truth:
    children = subfolders(folder)
    if [path.name for path in children] == ["480p"]:  # Annotations/480p/SEQUENCE of DAVIS.
        children = subfolders(children[0])
    masks = {path.name: _masks_of(path) for path in children} | {STILLS: _masks_of(folder, objects=False)}
    return Truth(folder.resolve().name, {name: frames for name, frames in masks.items() if frames})


def _masks_of(folder: Path, objects: bool = True) -> dict[str, tuple[Path, ...]]:
    """Frame -> its masks.

    They are in the folder itself or, if it has none and `objects` is true, in its subfolders 1, 2, ..., one for each
    object, as in SegTrack-v2. Raises InputError if an object has no mask in a frame in which another object has one.
    """
    alone = pictures_in(folder)
    if alone or not objects:
        return {frame: (path,) for frame, path in alone.items()}
    places = {place: pictures_in(place) for place in subfolders(folder) if place.name.isdecimal()}
    frames = dict.fromkeys(frame for masks in places.values() for frame in masks)
    for place, masks in places.items():
        missing = [frame for frame in frames if frame not in masks]
        if missing:
            raise InputError(f"{place}: the mask of frame {missing[0]} is missing")
    return {frame: tuple(masks[frame] for masks in places.values()) for frame in frames}


# Predictions


def find_tasks(folder: Path, truths: Sequence[Truth]) -> list[Task]:
    """The predictions in `folder`, which holds those of one method, or a folder for each of several methods.

    A method's folder holds SEQUENCE/FRAME.png, or FRAME.png for stills; with several data sets,
    DATASET/SEQUENCE/FRAME.png. FRAME.png may be in a subfolder "maps", where `predict` writes it.
    Raises InputError if nothing matches.
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


def check_tasks(tasks: Sequence[Task], truths: Sequence[Truth], allow_missing: bool = False) -> None:
    """Log what does not match. Raises InputError for missing predictions, unless `allow_missing`."""
    for method in dict.fromkeys(task.method for task in tasks):
        absent = {truth.name for truth in truths} - {task.dataset for task in tasks if task.method == method}
        if absent:
            _log.warning("%s: no predictions of %s", method, ", ".join(sorted(absent)))
    for task in tasks:
        if task.missing and not allow_missing:
            raise InputError(f"{task.describe_missing()} (--allow-missing scores the others)")
        if task.missing:
            _log.warning("%s", task.describe_missing())
        if task.extra:
            _log.warning("%s", task.describe_extra())


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
    """Pair the maps folder/SEQUENCE/FRAME.png (stills: folder/FRAME.png) with the masks, and list what is left over."""
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
