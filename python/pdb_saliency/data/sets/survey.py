"""Which data sets are there, and whether all their files can be read, for a person to look at."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.errors import InputError

from .catalog import expected_at, find_datasets, open_dataset
from .check import check_dataset
from .items import Dataset
from .published import KNOWN

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """name: of a data set. words: what was found of it. refused: it is there, but cannot be used as it is."""

    name: str
    words: str
    refused: bool = False


def survey(names: Sequence[str], data_root: Path | None, broken: str = "refuse") -> Iterator[Finding]:
    """Checks data sets one by one, by `check_dataset`, and yields a Finding after each.

    names: see `open_dataset`. Without any, all data sets below `data_root` are checked, and the known ones that are
        missing there are findings as well, as are those that cannot be listed.
    broken: "refuse" or "skip". Why a data set is refused is logged as an error before its Finding.
    Raises InputError: a name is not found, there is neither a name nor a data root, or no data set at all in it.
    """
    unlisted: dict[str, InputError] = {}
    if names:
        datasets = [open_dataset(name, data_root) for name in names]
    elif data_root is None:
        raise InputError("which data sets? expected --data-root ROOT, SETs, or both")
    else:
        found = find_datasets(data_root, unlisted.__setitem__)
        datasets = list(found.values())
        there = {title.partition(":")[0] for title in (*found, *unlisted)}
        for name in KNOWN:
            if name not in there:
                yield Finding(name, f"not found; expected {expected_at(name, data_root)}")
    for title, error in unlisted.items():
        _log.error("%s", error)
        yield Finding(title, "cannot be listed; refused", refused=True)
    for dataset in datasets:
        yield _check(dataset, broken)
    if not datasets and not unlisted:
        raise InputError(f"no data set found in {data_root}")


def describe(dataset: Dataset) -> str:
    """How many stills, videos and frames a data set has, in words."""
    parts = [_number(len(dataset.stills), "still")] if dataset.stills else []
    if dataset.videos:
        frames = _number(sum(len(video.frames) for video in dataset.videos), "frame")
        parts.append(f"{_number(len(dataset.videos), 'video')} of {frames}, {dataset.annotated_frames} annotated")
    return ", ".join(parts)


def _check(dataset: Dataset, broken: str) -> Finding:
    _log.info("%s: below %s", dataset.name, _place(dataset))
    try:
        usable = check_dataset(dataset, broken=broken)
    except InputError as error:
        _log.error("%s", error)
        return Finding(dataset.name, f"{describe(dataset)}; refused", refused=True)
    return Finding(dataset.name, describe(usable))


def _place(dataset: Dataset) -> str:
    """The folder that contains all its frames."""
    files = [still.image for still in dataset.stills] + [frame for video in dataset.videos for frame in video.frames]
    return os.path.commonpath([file.parent for file in files]) if files else "a folder without frames"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
