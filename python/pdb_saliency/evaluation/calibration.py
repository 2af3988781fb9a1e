"""How far a model's saliency is a probability, and the two numbers (`refine.calibrated`) that make it one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pdb_saliency.data.sets.items import Video
from pdb_saliency.errors import InputError
from pdb_saliency.inference.engine import authors_engine
from pdb_saliency.model.output import calibrated
from pdb_saliency.model.saliency import SaliencyModel

from .validate import scored_maps

_BINS = 2048
_CENTRES = ((np.arange(_BINS) + 0.5) / _BINS).astype(np.float32)
_STEPS = 50
_TENTHS = 10


@dataclass(frozen=True)
class Observed:
    """Of a model's maps before calibration, in 2048 bins of saliency from 0 to 1.

    counts: int64 (2, 2048), pixels off and on the object. overlaps: float64 (2048,), J of the masks cut at the lower end of
    each bin, mean over the frames of each video that count for J, then over videos.
    """

    counts: np.ndarray
    overlaps: np.ndarray


def observe(model: SaliencyModel, videos: Sequence[Video], device: torch.device, clips_every: int = 1) -> Observed:
    """Run the model on annotated videos, as `validate`. Raises InputError where none of them has a frame that counts for J."""
    engine = authors_engine(model, device)
    engine.output_spec = dataclasses.replace(engine.output_spec, scale=1.0, offset=0.0)
    counts, overlaps = np.zeros((2, _BINS), np.int64), []
    for video in videos:
        of_video = []
        for saliency, mask, counts_for_j in scored_maps(engine, video, clips_every):
            bins = np.minimum((saliency * _BINS).astype(np.int64), _BINS - 1)
            frame = np.stack([np.bincount(bins[side], minlength=_BINS) for side in (mask == 0, mask > 0)])
            counts += frame
            if counts_for_j:
                background, foreground = np.cumsum(frame[:, ::-1], axis=1)[:, ::-1]
                union = frame[1].sum() + background
                of_video.append(np.where(union > 0, foreground / np.maximum(union, 1), 1.0))
        if of_video:
            overlaps.append(np.mean(of_video, axis=0))
    if not overlaps:
        raise InputError(
            f"calibration needs annotated frames, and none of the {len(videos)} videos has one that is looked at"
        )
    return Observed(counts, np.mean(overlaps, axis=0))


def fit(counts: np.ndarray) -> tuple[float, float]:
    """(scale, offset) of the greatest likelihood: logistic regression of the masks on the maps' logits, by Newton's method."""
    logits = np.log(_CENTRES / (1 - _CENTRES)).astype(np.float64)
    basis, total = np.stack([logits, np.ones(_BINS)]), counts.sum(0)
    numbers = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-numbers @ basis))
        curvature = (basis * (total * share * (1 - share))) @ basis.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, basis @ (counts[1] - total * share))
        numbers = numbers + step / max(1.0, np.abs(step).max())
    scale, offset = (round(float(number), 4) for number in numbers)
    if not (math.isfinite(scale + offset) and scale > 0):
        raise InputError("the maps say nothing about the masks: there is no calibration for them")
    return scale, offset


def highest_saliency(counts: np.ndarray, scale: float, offset: float) -> float:
    """The highest calibrated saliency of any pixel."""
    return float(calibrated(_CENTRES[np.flatnonzero(counts.sum(0))[-1:]], scale, offset)[0])


def reliability(counts: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> list[tuple[float, float, float]]:
    """For each tenth of the calibrated saliency: its mean, the share of salient pixels, and the share of all pixels."""
    values, total = calibrated(_CENTRES, scale, offset).astype(np.float64), counts.sum(0)
    tenth = np.minimum((values * _TENTHS).astype(int), _TENTHS - 1)
    pixels, said, true = (np.bincount(tenth, of, _TENTHS) for of in (total, total * values, counts[1]))
    return [(said[i] / pixels[i], true[i] / pixels[i], pixels[i] / pixels.sum()) for i in range(_TENTHS) if pixels[i]]


def calibration_error(rows: Sequence[tuple[float, float, float]]) -> float:
    """Expected calibration error (Guo et al., ICML 2017): mean |said - true| over the pixels of `reliability`."""
    return sum(pixels * abs(said - true) for said, true, pixels in rows)


def best_threshold(overlaps: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> tuple[float, float]:
    """The threshold of the calibrated saliency with the highest J, and that J."""
    best = int(overlaps.argmax())
    cut = np.array([best / _BINS], np.float32)
    return float(calibrated(cut, scale, offset)[0]), float(overlaps[best])


def overlap_at(overlaps: np.ndarray, threshold: float, scale: float = 1.0, offset: float = 0.0) -> float:
    """J at a threshold of the calibrated saliency."""
    cuts = calibrated((np.arange(_BINS) / _BINS).astype(np.float32), scale, offset)
    return float(overlaps[min(int(np.searchsorted(cuts, threshold)), _BINS - 1)])


def set_calibration(model: SaliencyModel, scale: float, offset: float) -> None:
    model.config = dataclasses.replace(model.config, calibration=(scale, offset))
    model.output_spec = model.config.output_spec
