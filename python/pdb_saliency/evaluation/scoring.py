"""Scores pairs of a map and a mask, in several processes, and averages the scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdb_saliency.data.sets.read import read_mask
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.options import THRESHOLD
from pdb_saliency.runtime.processes import ProcessPool, ctrl_c_held
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.pictures import read_levels

from .metrics.davis import boundary_measure, statistics
from .metrics.saliency import FrameScores, SaliencyScores, cut, score_frame
from .pairs import STILLS, Pair, Task, check_tasks, find_tasks, open_truths

_WORTH_PROCESSES = 150  # Frames; fewer are scored before a process has started.
_FRAMES_EACH = 16  # Frames for which one more process is worth its start.
_MEASURES = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """threshold: of the maps, for J and F. normalise: stretch every map to its own minimum and maximum first."""

    threshold: float = THRESHOLD
    normalise: bool = False


@dataclass(frozen=True)
class PairScores:
    """boundary: DAVIS's boundary F. resized: map and mask differed in size. highest: the map's maximum, 0 to 255."""

    frame: FrameScores
    boundary: float
    resized: bool
    highest: int


@dataclass(frozen=True)
class Scores:
    """The scores of one method on one data set, or on one of its sequences.

    j_..., f_...: means over sequences of the mean, recall and decay of J and F; None if undefined (the decay of stills,
    or no frame that counts). precision, recall: float64 (256,). The others are means over all frames, see
    SaliencyScores.
    """

    frames: int
    mae: float
    max_f: float
    max_f_cut: float
    max_f_of_means: float
    s: float
    e_max: float
    j_mean: float | None
    j_recall: float | None
    j_decay: float | None
    f_mean: float | None
    f_recall: float | None
    f_decay: float | None
    precision: np.ndarray
    recall: np.ndarray


@dataclass(frozen=True)
class TaskScores:
    """The scores of a task. sequences: those of each sequence; empty for stills."""

    task: Task
    total: Scores
    sequences: dict[str, Scores]


def evaluate(
    predictions: Path,
    truths: Sequence[str],
    rules: Rules = Rules(),
    *,
    data_root: Path | None = None,
    workers: int = 1,
    allow_missing: bool = False,
) -> list[TaskScores]:
    """Score the maps in a folder, of one method or several, against one or several data sets.

    predictions: see `find_tasks`. truths: see `open_truth`. workers: processes. allow_missing: score the maps that are
    there if others are missing.
    Raises InputError if nothing matches, if predictions are missing (unless `allow_missing`), or if a file cannot be
    read.
    """
    opened = open_truths(truths, data_root)
    tasks = find_tasks(predictions, opened)
    check_tasks(tasks, opened, allow_missing)
    for task in tasks:
        _log.info("%s: %d maps", task.name, len(task.pairs))
    return score_tasks(tasks, rules, workers)


def score_tasks(tasks: Iterable[Task], rules: Rules, workers: int) -> list[TaskScores]:
    """Score every pair of every task, in the order of the tasks.

    Raises InputError, which names the file, if one cannot be read or decoded; SaliencyError if a process was killed.
    """
    tasks = list(tasks)
    pairs = [pair for task in tasks for pair in task.pairs]
    with progress_bar("scoring", total=len(pairs), unit="frame") as bar:
        scored = (
            _in_processes(pairs, rules, workers)
            if workers > 1 and len(pairs) >= _WORTH_PROCESSES
            else (score_pair(pair, rules) for pair in pairs)
        )
        stream = _counting(scored, bar)
        by_task = [(task, [next(stream) for _ in task.pairs]) for task in tasks]
    for task, scored in by_task:
        _warn_of_odd_maps(task, scored)
    return [_of_task(task, scored) for task, scored in by_task]


def score_pair(pair: Pair, rules: Rules) -> PairScores:
    """Read and score one pair. Raises InputError."""
    prediction = read_map(pair.prediction)
    mask = read_mask(pair.masks)
    resized = prediction.shape != mask.shape
    if resized:
        prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    frame = score_frame(prediction, mask, rules.threshold, rules.normalise)
    boundary = boundary_measure(cut(prediction, rules.threshold, rules.normalise), mask)
    return PairScores(frame, boundary, resized, int(prediction.max()))


def read_map(path: Path) -> np.ndarray:
    """uint8 (H, W). Raises InputError if the image does not decode or is not grey."""
    image = read_levels(path)
    if image.ndim == 2:
        return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    grey = image[:, :, 0]
    if not (np.array_equal(grey, image[:, :, 1]) and np.array_equal(grey, image[:, :, 2])):
        raise InputError(f"{path}: a saliency map must be grey, and this image has colours")
    return np.ascontiguousarray(grey)


def _in_processes(pairs: list[Pair], rules: Rules, workers: int) -> Iterator[PairScores]:
    pool = ProcessPool(min(workers, math.ceil(len(pairs) / _FRAMES_EACH)), _prepare_worker)
    try:
        with ctrl_c_held():  # The processes start here, and must not receive it.
            results = [pool.submit(score_pair, pair, rules) for pair in pairs]
        yield from (result.result() for result in results)
    except BrokenProcessPool as error:
        raise SaliencyError(
            "a scoring process was killed (out of memory?); fewer --workers need less memory"
        ) from error
    finally:
        pool.kill()


def _prepare_worker() -> None:
    cv2.setNumThreads(1)


def _counting(items: Iterable[PairScores], bar: Any) -> Iterator[PairScores]:
    for item in items:
        yield item
        bar.update()


def _of_task(task: Task, scored: list[PairScores]) -> TaskScores:
    groups: dict[str, list[tuple[Pair, PairScores]]] = {}
    for pair, scores in zip(task.pairs, scored):
        groups.setdefault(pair.sequence, []).append((pair, scores))
    parts = {name: _scores([scores for _, scores in group], _measures(group)) for name, group in groups.items()}
    means = {name: _mean(getattr(part, name) for part in parts.values()) for name in _MEASURES}
    sequences = {name: part for name, part in parts.items() if name != STILLS}
    return TaskScores(task, _scores(scored, means), sequences)


def _measures(group: list[tuple[Pair, PairScores]]) -> dict[str, float | None]:
    """J and F of one sequence, or of all stills."""
    counted = [scores for pair, scores in group if pair.counts]
    if not counted:
        return dict.fromkeys(_MEASURES)
    result = [*statistics([scores.frame.j for scores in counted]), *statistics([scores.boundary for scores in counted])]
    measures: dict[str, float | None] = dict(zip(_MEASURES, result))
    if group[0][0].sequence == STILLS:  # Stills have no order.
        measures["j_decay"] = measures["f_decay"] = None
    return measures


def _scores(scored: Iterable[PairScores], measures: dict[str, float | None]) -> Scores:
    total = SaliencyScores()
    for scores in scored:
        total.add_scores(scores.frame)
    result = total.result()
    names = ("frames", "mae", "max_f", "max_f_cut", "max_f_of_means", "s", "e_max", "precision", "recall")
    return Scores(**{name: result[name] for name in names}, **measures)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _warn_of_odd_maps(task: Task, scored: list[PairScores]) -> None:
    resized = [pair.prediction for pair, scores in zip(task.pairs, scored) if scores.resized]
    if resized:
        text = "%s: %d maps were resized (bilinear) to the size of their masks: %s, ..."
        _log.warning(text, task.name, len(resized), resized[0])
    if max(scores.highest for scores in scored) <= 1:
        text = "%s: no map has a value above 1; expected 0 to 255 (binary maps: 255 on the object)"
        _log.warning(text, task.name)
