"""Finding data sets: by name below a data root, or by the path of a folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pdb_saliency.errors import InputError

from .items import Dataset
from .layouts import plain, recognise, subfolders
from .published import KNOWN
from .published.known_set import Items, KnownSet

_log = logging.getLogger(__name__)


def open_dataset(name_or_path: str, data_root: Path | None = None) -> Dataset:
    """A data set by name (`published.KNOWN`), searched for below `data_root`, or by the path of its folder.

    Either may end in a split, as in "duts:train"; "davis-2016:test" is its "val", as in the paper. A name without a
    split means all splits, which must then all be there. A path may be relative to `data_root` or to the current
    folder. The folder of a name may differ from it in capitals, "-" and "_", be inside another folder of the same name,
    as unpacking creates it, or be the data root itself; besides the published layout it may have one of the general
    layouts of `layouts.recognise`.
    Raises InputError: the folder is missing (the message names it), has no known layout, or has no such split.
    """
    name, _, split = name_or_path.rpartition(":")
    if not name or not any(split in (*known.splits, *known.aliases) for known in KNOWN.values()):
        name, split = name_or_path, None
    if name.lower() in KNOWN and (data_root or not Path(name).is_dir()):
        return _open_known(name.lower(), split, data_root)
    places = [Path(name)] if data_root is None else [data_root / name, Path(name)]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        tried = " or ".join(map(str, dict.fromkeys(places)))
        raise InputError(f"data set {name!r}: expected a folder {tried}, or one of {', '.join(KNOWN)}")
    return _open_folder(folder, split)


def _warn(name: str, error: InputError) -> None:
    _log.warning("%s: passed over: %s", name, error)


def find_datasets(data_root: Path, remark: Callable[[str, InputError], None] = _warn) -> dict[str, Dataset]:
    """All data sets below `data_root`: the known ones by name, split by split, others by the name of their folder.

    remark: called with the name of each data set that is there but cannot be listed, and the reason (a list of frames
        that cannot be read, two pictures of one name, a folder without read permission). By default that is logged as a
        warning.
    Raises InputError when `data_root` is not a folder.
    """
    if not data_root.is_dir():
        raise InputError(f"data root {data_root}: no such folder")
    found: dict[str, Dataset] = {}
    for name, known in KNOWN.items():
        for split in known.splits or (None,):
            title = f"{name}:{split}" if split else name
            try:
                found[title] = Dataset(title, *_search(data_root, known, split))
            except InputError as error:
                remark(title, error)
    found = {title: dataset for title, dataset in found.items() if dataset.stills or dataset.videos}
    seen = {path for dataset in found.values() for path in _pictures(dataset)}
    for folder in subfolders(data_root):
        try:
            dataset = recognise(folder)
        except InputError as error:
            remark(folder.name, error)
            continue
        if dataset and not seen & _pictures(dataset):
            found[folder.name] = dataset
    return found


def expected_at(name: str, data_root: Path | None) -> str:
    """Where a known data set is searched for, in words."""
    layout = KNOWN[name].expected
    return f"in {data_root}: {layout}" if data_root else f"below the data root (--data-root, not given): {layout}"


def _open_known(name: str, split: str | None, data_root: Path | None) -> Dataset:
    known, title = KNOWN[name], f"{name}:{split}" if split else name
    split = known.aliases.get(split, split)
    if split and split not in known.splits:
        splits = f"the splits {', '.join(known.splits)}" if known.splits else "no splits"
        raise InputError(f"{title}: {name} has {splits}")
    if data_root and not data_root.is_dir():
        raise InputError(f"data root {data_root}: no such folder")
    stills, videos = _search(data_root, known, split) if data_root else ((), ())
    if not stills and not videos:
        raise InputError(f"data set {title} not found; expected {expected_at(name, data_root)}")
    there = [part for part in known.splits if split is None and any(_search(data_root, known, part))]
    if there and len(there) < len(known.splits):
        have = " and ".join(f"{name}:{part}" for part in there)
        raise InputError(f"data set {name}: only {have} is there; expected {expected_at(name, data_root)}")
    return Dataset(title, stills, videos)


def _search(data_root: Path, known: KnownSet, split: str | None) -> Items:
    """The stills and videos of a known set below the data root, or in it; none if it is not there."""
    named = [folder for folder in subfolders(data_root) if plain(folder.name) in known.folders]
    named += [inner for folder in named for inner in subfolders(folder) if plain(inner.name) in known.folders]
    for folder in [*named, data_root]:
        items = known.open(folder, split)
        if any(items):
            return items
    # A general layout counts only if one set alone has this name: DAVIS without its lists may be that of 2016 or 2017.
    owners = Counter(name for other in KNOWN.values() for name in other.folders)
    for folder in named:
        dataset = recognise(folder) if split is None and owners[plain(folder.name)] == 1 else None
        if dataset:
            return dataset.stills, dataset.videos
    return (), ()


def _open_folder(folder: Path, split: str | None) -> Dataset:
    title = f"{folder.resolve().name}:{split}" if split else folder.resolve().name
    for known in KNOWN.values():
        items = known.open(folder, split) if split is None or split in known.splits else ()
        if any(items):
            return Dataset(title, *items)
    dataset = recognise(folder) if split is None else None
    if dataset is None:
        wanted = "in a known layout: images + masks, JPEGImages/SEQUENCE + Annotations/SEQUENCE, or a published one"
        if split:
            sets = ", ".join(name for name, known in KNOWN.items() if split in known.splits)
            wanted = f"with a split {split!r}, which only the published layouts of {sets} have"
        raise InputError(f"{folder}: expected a data set {wanted}")
    return replace(dataset, name=title)


def _pictures(dataset: Dataset) -> set[Path]:
    return {still.image for still in dataset.stills} | {frame for video in dataset.videos for frame in video.frames}
