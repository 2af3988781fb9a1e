"""Reads and scores pairs of map and mask, in several processes, and takes the means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdb_saliency.data.sets.read import read_mask
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.evaluation.metrics.davis import boundary_measure, statistics
from pdb_saliency.evaluation.metrics.saliency import FrameScores, SaliencyScores, cut, score_frame
from pdb_saliency.options import THRESHOLD
from pdb_saliency.runtime.processes import ProcessPool, ctrl_c_held
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.pictures import read_levels

from .pairs import STILLS
from .predictions import Pair, Task

_WORTH_A_PROCESS = 150  # Frames; fewer are scored sooner than a process has started.
_EACH = 16  # Frames that make a further process worth its start.
_MEASURES = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")


@dataclass(frozen=True)
class Rules:
    """threshold: of the masks that J and F compare. normalise: stretch every map to its minimum and maximum first."""

    threshold: float = THRESHOLD
    normalise: bool = False


@dataclass(frozen=True)
class PairScores:
    """boundary: F of DAVIS. resized: the map had another size than the mask. highest: its maximum, 0 to 255."""

    frame: FrameScores
    boundary: float
    resized: bool
    highest: int


@dataclass(frozen=True)
class Scores:
    """Of one method on one data set, or of one of its sequences.

    j_..., f_...: means over sequences of the mean, recall and decay of J and F; None where there is none (decay of stills,
    no frame that counts). precision, recall: float64 (256,). The others: see SaliencyScores; means over all frames.
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
    """notes: lines for the user on what was odd in the maps."""

    task: Task
    total: Scores
    sequences: dict[str, Scores]
    notes: tuple[str, ...]


def score_tasks(tasks: Iterable[Task], rules: Rules, workers: int) -> list[TaskScores]:
    """Score every pair of every task. Raises InputError for a file that cannot be read or decoded, by name."""
    tasks = list(tasks)
    pairs = [pair for task in tasks for pair in task.pairs]
    with progress_bar("scoring", total=len(pairs), unit="frame") as bar:
        scored = (
            _in_processes(pairs, rules, workers)
            if workers > 1 and len(pairs) >= _WORTH_A_PROCESS
            else (score_pair(pair, rules) for pair in pairs)
        )
        stream = _counting(scored, bar)
        return [_of_task(task, [next(stream) for _ in task.pairs]) for task in tasks]


def score_pair(pair: Pair, rules: Rules) -> PairScores:
    prediction = read_map(pair.prediction)
    mask = read_mask(pair.masks)
    resized = prediction.shape != mask.shape
    if resized:
        prediction = cv2.resize(prediction, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    frame = score_frame(prediction, mask, rules.threshold, rules.normalise)
    boundary = boundary_measure(cut(prediction, rules.threshold, rules.normalise), mask)
    return PairScores(frame, boundary, resized, int(prediction.max()))


def read_map(path: Path) -> np.ndarray:
    """uint8 (H, W). Raises InputError where the picture does not decode or has colours."""
    image = read_levels(path)
    if image.ndim == 2:
        return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    grey = image[:, :, 0]
    if not (np.array_equal(grey, image[:, :, 1]) and np.array_equal(grey, image[:, :, 2])):
        raise InputError(f"{path}: a saliency map must be grey, and this picture has colours")
    return np.ascontiguousarray(grey)


def _in_processes(pairs: list[Pair], rules: Rules, workers: int) -> Iterator[PairScores]:
    pool = ProcessPool(min(workers, math.ceil(len(pairs) / _EACH)), _prepare_worker)
    try:
        with ctrl_c_held():  # The processes start here, and never see it.
            results = [pool.submit(score_pair, pair, rules) for pair in pairs]
        yield from (result.result() for result in results)
    except BrokenProcessPool as error:
        raise SaliencyError("a scoring process was killed (no memory left?); fewer --workers need less") from error
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
    return TaskScores(task, _scores(scored, means), sequences, tuple(_notes(task, scored)))


def _measures(group: list[tuple[Pair, PairScores]]) -> dict[str, float | None]:
    """J and F of one sequence, or of all stills."""
    counted = [scores for pair, scores in group if pair.counts]
    if not counted:
        return dict.fromkeys(_MEASURES)
    result = [*statistics([scores.frame.j for scores in counted]), *statistics([scores.boundary for scores in counted])]
    measures: dict[str, float | None] = dict(zip(_MEASURES, result))
    if group[0][0].sequence == STILLS:  # They have no order.
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


def _notes(task: Task, scored: list[PairScores]) -> Iterator[str]:
    where = f"{task.method} on {task.dataset}"
    resized = [pair.prediction for pair, scores in zip(task.pairs, scored) if scores.resized]
    if resized:
        yield f"{where}: {len(resized)} maps were resized (bilinear) to the size of their masks: {resized[0]}, ..."
    if max(scores.highest for scores in scored) <= 1:
        yield f"{where}: no map has a value above 1; expected 0 to 255 (a mask must be 255 on the object)"
