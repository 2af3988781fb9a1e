"""Decodes every file of a data set before it is used, and reports the broken ones by name."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pdb_saliency.errors import InputError
from pdb_saliency.runtime.progress import progress_bar

from .catalog import open_dataset
from .items import Dataset, Still, Video
from .read import read_frame, read_mask

_log = logging.getLogger(__name__)

BROKEN = ("refuse", "skip")


def check_dataset(dataset: Dataset, *, broken: str = "refuse", workers: int | None = None) -> Dataset:
    """The data set, after each of its files has been decoded.

    Broken are: a picture or mask that is missing or does not decode; a mask whose size differs from its picture's; a
    frame whose size differs from that of the other frames of its video; the mask of a still without any foreground; a
    video without an annotated frame, or without foreground in any mask. (Single masks of a video may have no
    foreground: the object has left.) Each one is logged as an error.

    broken: "refuse" raises InputError if anything is broken. "skip" returns the data set without it: a still is left
        out as a whole. In a video, a broken mask is left out (its frame stays, unannotated), and a broken frame with
        its mask, so that motion jumps by a frame there. A video without an annotated frame is left out as a whole.
    workers: threads that decode (the decoders release the interpreter's lock); None: one for each CPU.
    Shows a progress bar, see `runtime.progress`.
    Raises InputError if it refuses, and if nothing is left.
    """
    if broken not in BROKEN:
        raise ValueError(f"broken must be one of {', '.join(BROKEN)}, got {broken!r}")
    workers = workers or os.cpu_count() or 1
    frames = [(video, index) for video in dataset.videos for index in range(len(video.frames))]
    jobs = [lambda still=still: _check_still(still) for still in dataset.stills]
    jobs += [lambda video=video, index=index: _check_frame(video, index) for video, index in frames]
    results = _run(jobs, dataset.name, workers)
    still_problems = results[: len(dataset.stills)]
    stills = tuple(still for still, problem in zip(dataset.stills, still_problems) if problem is None)
    problems = [problem for problem in still_problems if problem is not None]
    checked = iter(results[len(dataset.stills) :])
    videos = []
    for video in dataset.videos:
        whole, video_problems = _checked_video(video, [next(checked) for _ in video.frames])
        problems += video_problems
        videos += [whole] if whole else []
    for problem in problems:
        _log.error("%s: %s", dataset.name, problem, extra={"kind": "broken"})
    _refuse(dataset, problems, broken, bool(stills or videos))
    return replace(dataset, stills=stills, videos=tuple(videos))


def open_checked(name: str, data_root: Path | None, broken: str = "refuse") -> Dataset:
    """The data set that `open_dataset` finds, after `check_dataset`. Raises InputError."""
    return check_dataset(open_dataset(name, data_root), broken=broken)


def open_videos(names: Sequence[str], data_root: Path | None, broken: str = "refuse") -> list[Video]:
    """The videos of several data sets, each opened by `open_checked`. Raises InputError as that and `videos_of` do."""
    return [video for name in names for video in videos_of(open_checked(name, data_root, broken), name)]


def videos_of(dataset: Dataset, name: str | None = None) -> tuple[Video, ...]:
    """The videos of a data set. name: as the user gave it. Raises InputError if it has none."""
    if not dataset.videos:
        raise InputError(f"{name or dataset.name}: validation needs videos, and this data set has none")
    return dataset.videos


@dataclass(frozen=True)
class _Frame:
    """size: (height, width); None if the frame cannot be read. foreground: None if it has no usable mask."""

    size: tuple[int, int] | None
    frame_problem: str | None
    mask_problem: str | None
    foreground: bool | None


def _run(jobs: Sequence[Callable], name: str, workers: int) -> list:
    bar = progress_bar(f"checking {name}", total=len(jobs), unit="picture", leave=False)
    pool = ThreadPoolExecutor(workers)
    try:
        with bar:
            results = []
            for result in pool.map(lambda job: job(), jobs):
                results.append(result)
                bar.update()
        return results
    finally:
        pool.shutdown(cancel_futures=True)  # So that Ctrl-C does not wait for thousands of files.


def _refuse(dataset: Dataset, problems: list[str], broken: str, left: bool) -> None:
    if not problems and left:
        return
    number = f"{len(problems)} broken pair{'s' * (len(problems) != 1)}"
    if not left:
        raise InputError(f"data set {dataset.name}: nothing in it can be used; {number}")
    if broken == "refuse":
        raise InputError(f"data set {dataset.name}: {number}, reported above; `--broken skip` leaves them out")
    _log.warning("%s: %s left out", dataset.name, number)


def _check_still(still: Still) -> str | None:
    try:
        size = _size_of(still.image, "picture")
        _must_exist(still.mask, "mask")
        if not read_mask([still.mask], size).any():
            return f"{still.mask}: the mask has no foreground"
    except InputError as error:
        return str(error)
    return None


def _check_frame(video: Video, index: int) -> _Frame:
    try:
        size = _size_of(video.frames[index], "picture")
    except InputError as error:
        return _Frame(None, str(error), None, None)
    if not video.masks[index]:
        return _Frame(size, None, None, None)
    try:
        for path in video.masks[index]:
            _must_exist(path, "mask")
        return _Frame(size, None, None, bool(read_mask(video.masks[index], size).any()))
    except InputError as error:
        return _Frame(size, None, str(error), None)


def _size_of(path: Path, what: str) -> tuple[int, int]:
    _must_exist(path, what)
    return read_frame(path).shape[:2]


def _must_exist(path: Path, what: str) -> None:
    if not path.exists():
        raise InputError(f"{path}: the {what} is missing")


def _checked_video(video: Video, results: list[_Frame]) -> tuple[Video | None, list[str]]:
    """The usable part of a video, or None if there is none, and the problems."""
    sizes = Counter(result.size for result in results if result.size)
    if not sizes:
        if not video.frames:
            return None, [f"{video.name}: there is no frame in its folder"]
        return None, [f"{video.name}: none of its {len(results)} frames can be read in {video.frames[0].parent}"]
    if not any(video.masks):
        return None, [f"{video.name}: none of its {len(results)} frames has a mask"]
    size = sizes.most_common(1)[0][0]
    problems, kept = [], []
    for path, masks, result in zip(video.frames, video.masks, results):
        problem = result.frame_problem or (_other_size(path, size, result.size) if result.size != size else None)
        problems += [problem] if problem else []
        problems += [result.mask_problem] if result.mask_problem and not problem else []
        if problem is None:
            kept.append((path, masks if result.foreground is not None else ()))
    usable = [result.foreground for result in results if result.size == size and result.foreground is not None]
    if not any(usable):
        if not problems or usable:
            problems.append(f"{video.name}: none of its {len(usable)} masks has foreground")
        return None, problems
    return Video(video.name, tuple(path for path, _ in kept), tuple(masks for _, masks in kept)), problems


def _other_size(path: Path, size: tuple[int, int], found: tuple[int, int]) -> str:
    expected, got = (f"{width}x{height}" for height, width in (size, found))
    return f"{path}: a frame of {expected} pixels is expected, like most of its video, got {got}"
