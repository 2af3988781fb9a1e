"""How well saliency is calibrated, and the scale and offset (`output.calibrated`) that make it a probability."""

from __future__ import annotations

import dataclasses
import logging
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
from pdb_saliency.options import THRESHOLD

from .validate import scored_maps

BINS = 2048
CENTRES = ((np.arange(BINS) + 0.5) / BINS).astype(np.float32)  # Saliencies at the centres of the bins.
_STEPS = 50
_TENTHS = 10
_SHOWN_THRESHOLDS = (0.3, THRESHOLD, 0.5, 0.6)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """Statistics of a model's maps before calibration, in 2048 bins of saliency from 0 to 1.

    counts: int64 (2, 2048), pixels off and on the object. overlaps: float64 (2048,), J of the maps cut at the lower end
    of each bin: the mean over those frames of a video that count for J, then over videos.
    """

    counts: np.ndarray
    overlaps: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """scale, offset: of the logits, as fitted. before: the model's own. observed: what they were fitted to."""

    scale: float
    offset: float
    before: tuple[float, float]
    observed: Observed

    def report(self) -> str:
        """Both calibrations in text, with their reliability, calibration error, and J at several thresholds."""
        head = f"scale {self.scale}, offset {self.offset}; before: {self.before[0]}, {self.before[1]}"
        parts = {"before": self.before, "after": (self.scale, self.offset)}
        return "\n\n".join([head, *(_reliability_table(self.observed, name, *pair) for name, pair in parts.items())])


def calibrate(model: SaliencyModel, videos: Sequence[Video], device: torch.device, clips_every: int = 1) -> Calibration:
    """Fit scale and offset to annotated videos. The model is left as it was; `set_calibration` changes it.

    clips_every: look at every n-th clip only. Raises InputError if no frame is annotated, or if the maps are not
    related to the masks.
    """
    _log.info("%s, on %s", model.description, device)
    observed = observe(model, videos, device, clips_every)
    scale, offset = fit(observed.counts)
    highest = highest_saliency(observed.counts, scale, offset)
    if highest < THRESHOLD:
        text = "the maps hardly show what is salient: after calibration none exceeds %.2f, so all masks are empty"
        _log.warning(text, highest)
    return Calibration(scale, offset, model.config.calibration, observed)


def observe(model: SaliencyModel, videos: Sequence[Video], device: torch.device, clips_every: int = 1) -> Observed:
    """Run the model on annotated videos, as `validate` does. Raises InputError if no frame counts for J."""
    engine = authors_engine(model, device)
    engine.output_spec = dataclasses.replace(engine.output_spec, scale=1.0, offset=0.0)
    counts, overlaps = np.zeros((2, BINS), np.int64), []
    for video in videos:
        of_video = []
        for saliency, mask, counts_for_j in scored_maps(engine, video, clips_every):
            bins = np.minimum((saliency * BINS).astype(np.int64), BINS - 1)
            frame = np.stack([np.bincount(bins[side], minlength=BINS) for side in (mask == 0, mask > 0)])
            counts += frame
            if counts_for_j:
                background, foreground = np.cumsum(frame[:, ::-1], axis=1)[:, ::-1]
                union = frame[1].sum() + background
                of_video.append(np.where(union > 0, foreground / np.maximum(union, 1), 1.0))
        if of_video:
            overlaps.append(np.mean(of_video, axis=0))
    if not overlaps:
        raise InputError(
            f"calibration needs annotated frames, but the chosen clips of the {len(videos)} videos have none"
        )
    return Observed(counts, np.mean(overlaps, axis=0))


def fit(counts: np.ndarray) -> tuple[float, float]:
    """The maximum-likelihood (scale, offset): logistic regression of the masks on the logits, by Newton's method.

    counts: int64 (2, 2048), as in `Observed`. Raises InputError if the scale would not be positive and finite.
    """
    logits = np.log(CENTRES / (1 - CENTRES)).astype(np.float64)
    basis, total = np.stack([logits, np.ones(BINS)]), counts.sum(0)
    numbers = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-numbers @ basis))
        curvature = (basis * (total * share * (1 - share))) @ basis.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, basis @ (counts[1] - total * share))
        numbers = numbers + step / max(1.0, np.abs(step).max())
    scale, offset = (round(float(number), 4) for number in numbers)
    if not (math.isfinite(scale + offset) and scale > 0):
        raise InputError("the maps say nothing about the masks, so they cannot be calibrated")
    return scale, offset


def highest_saliency(counts: np.ndarray, scale: float, offset: float) -> float:
    """The highest calibrated saliency of any pixel."""
    return float(calibrated(CENTRES[np.flatnonzero(counts.sum(0))[-1:]], scale, offset)[0])


def reliability(counts: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> list[tuple[float, float, float]]:
    """A reliability diagram of the calibrated saliency, in tenths of its range; those without pixels are left out.

    Each is (mean saliency, fraction of its pixels that are salient, its fraction of all pixels).
    """
    values, total = calibrated(CENTRES, scale, offset).astype(np.float64), counts.sum(0)
    tenth = np.minimum((values * _TENTHS).astype(int), _TENTHS - 1)
    pixels, said, true = (np.bincount(tenth, of, _TENTHS) for of in (total, total * values, counts[1]))
    return [(said[i] / pixels[i], true[i] / pixels[i], pixels[i] / pixels.sum()) for i in range(_TENTHS) if pixels[i]]


def calibration_error(rows: Sequence[tuple[float, float, float]]) -> float:
    """Expected calibration error (Guo et al., ICML 2017): the mean of |saliency - fraction| over all pixels."""
    return sum(pixels * abs(said - true) for said, true, pixels in rows)


def best_threshold(overlaps: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> tuple[float, float]:
    """The threshold of the calibrated saliency with the highest J, and that J."""
    best = int(overlaps.argmax())
    cut = np.array([best / BINS], np.float32)
    return float(calibrated(cut, scale, offset)[0]), float(overlaps[best])


def overlap_at(overlaps: np.ndarray, threshold: float, scale: float = 1.0, offset: float = 0.0) -> float:
    """J at a threshold of the calibrated saliency."""
    cuts = calibrated((np.arange(BINS) / BINS).astype(np.float32), scale, offset)
    return float(overlaps[min(int(np.searchsorted(cuts, threshold)), BINS - 1)])


def set_calibration(model: SaliencyModel, scale: float, offset: float) -> None:
    """Let the model's maps, and the files it is saved to, use this calibration."""
    model.config = dataclasses.replace(model.config, calibration=(scale, offset))
    model.output_spec = model.config.output_spec


def _reliability_table(observed: Observed, name: str, scale: float, offset: float) -> str:
    rows = reliability(observed.counts, scale, offset)
    lines = [f"{name}: expected calibration error {calibration_error(rows):.4f}", "saliency  salient  of all pixels"]
    lines += [f"{said:8.3f} {true:8.3f} {pixels:14.2%}" for said, true, pixels in rows]
    shown = (f"{overlap_at(observed.overlaps, cut, scale, offset):.3f} at {cut}" for cut in _SHOWN_THRESHOLDS)
    threshold, overlap = best_threshold(observed.overlaps, scale, offset)
    return "\n".join([*lines, f"J {', '.join(shown)}; at best {overlap:.3f} at {threshold:.2f}"])
