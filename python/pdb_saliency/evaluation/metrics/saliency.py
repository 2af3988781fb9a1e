"""MAE, precision, recall, F-, S- and E-measure of saliency maps, all from histograms of each frame.

The definitions, thresholds and corner cases are those of pysodmetrics 1.6 (`py_sod_metrics`), the field's reference
implementation; the tests compare the values. It visits every pixel about forty times. An 8-bit map has only 256
levels, so here the pixels are counted once and the rest is arithmetic on the counts, which is about twenty times as
fast.

Maps are scored as they are. pysodmetrics by default, and the authors' script, first stretch each map to its own minimum
and maximum (`normalise=True`): an almost empty map then scores like a confident one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pdb_saliency.options import THRESHOLD

from .structure import centroid_quadrants, structure_measure

BETA_SQUARED = 0.3
LEVELS = 256
_EPS = np.spacing(1)
_MOST_COUNTED = 1 << 24  # cv2.calcHist returns float32, which counts up to here.


@dataclass(frozen=True)
class FrameScores:
    """Scores of one frame.

    mae, s: in [0, 1]. j: the intersection over union at the threshold, 1 if map and mask are both empty.
    precision, recall, f, e: float64 (256,), for the map cut at level >= 0, 1, ..., 255. Precision is 0 if no pixel
    reaches the cut; recall and F are 0 if the mask is empty.
    """

    mae: float
    s: float
    j: float
    precision: np.ndarray
    recall: np.ndarray
    f: np.ndarray
    e: np.ndarray


def score_frame(prediction: np.ndarray, mask: np.ndarray, threshold: float, normalise: bool = False) -> FrameScores:
    """The scores of one frame.

    prediction: uint8 (H, W), 255 times the saliency, or floating point (H, W) in [0, 1], which is rounded to that.
    mask: uint8 or bool (H, W), non-zero on the object. threshold: of the saliency, for `j`.
    normalise: stretch the map to its own minimum and maximum first.
    Raises ValueError for any other dtype, shape or range.
    """
    prediction, mask = as_level(prediction), as_mask(mask)
    if prediction.shape != mask.shape:
        raise ValueError(f"the prediction is {prediction.shape}, its mask {mask.shape}: expected one size")
    quadrants = _counts(prediction, mask)
    background, foreground = quadrants.sum(0)
    values = saliency_of_levels(prediction, normalise)

    true_positives = _at_least(foreground, values)
    positives = true_positives + _at_least(background, values)
    objects, size = int(foreground.sum()), mask.size
    precision = true_positives / np.maximum(positives, 1)
    recall = true_positives / max(objects, 1)

    return FrameScores(
        mae=float((foreground @ (1 - values) + background @ values) / size),
        s=structure_measure(quadrants, values),
        j=_overlap(foreground, background, values >= threshold),
        precision=precision,
        recall=recall,
        f=f_measure(precision, recall),
        e=_alignment(true_positives, positives, objects, size),
    )


class SaliencyScores:
    """Sums of the scores of frames, and their means.

    threshold: for `j`. normalise: stretch each map to its own minimum and maximum first.
    """

    def __init__(self, threshold: float = THRESHOLD, normalise: bool = False):
        self.threshold = threshold
        self.normalise = normalise
        self.frames = 0
        self._sums: dict[str, np.ndarray | float] = {}

    def add(self, prediction: np.ndarray, mask: np.ndarray) -> FrameScores:
        """Score a frame with `score_frame`, and add it."""
        scores = score_frame(prediction, mask, self.threshold, self.normalise)
        self.add_scores(scores)
        return scores

    def add_scores(self, scores: FrameScores) -> None:
        for name, value in vars(scores).items():
            self._sums[name] = self._sums.get(name, 0) + value
        self.frames += 1

    def merge(self, other: SaliencyScores) -> None:
        """Add all frames of `other`."""
        for name, value in other._sums.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self.frames += other.frames

    def result(self) -> dict:
        """Means over all frames added.

        frames: their number. mae, s: means. max_f: the maximum over cuts of the mean F-measure (averaged over the F of
        each frame, as in pysodmetrics), reached at the saliency max_f_cut. max_f_of_means: the maximum F-measure of
        mean precision and mean recall, the older convention. e_max: the maximum of the mean E-measure. precision,
        recall, f, e: mean curves, float64 (256,).
        Raises ValueError if there are no frames.
        """
        if not self.frames:
            raise ValueError("no frame has been scored")
        mean = {name: value / self.frames for name, value in self._sums.items() if name != "j"}
        return {
            "frames": self.frames,
            "mae": float(mean["mae"]),
            "max_f": float(mean["f"].max()),
            "max_f_cut": float(mean["f"].argmax() / 255),
            "max_f_of_means": float(f_measure(mean["precision"], mean["recall"]).max()),
            "s": float(mean["s"]),
            "e_max": float(mean["e"].max()),
            **{name: mean[name] for name in ("precision", "recall", "f", "e")},
        }


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R) with beta^2 = 0.3; 0 if P R = 0."""
    product = (1 + BETA_SQUARED) * precision * recall
    return product / np.where(product == 0, 1, BETA_SQUARED * precision + recall)


def as_level(prediction: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of a map: 255 times the saliency, rounded. Raises ValueError."""
    if prediction.ndim != 2:
        raise ValueError(f"a prediction must be (H, W), got {prediction.shape}")
    if prediction.dtype == np.uint8:
        return np.ascontiguousarray(prediction)
    if not np.issubdtype(prediction.dtype, np.floating):
        raise ValueError(f"a prediction must be uint8 or floating point, got {prediction.dtype}")
    if prediction.size and not (prediction.min() >= 0 and prediction.max() <= 1):  # Also false for NaN.
        raise ValueError(
            f"a floating-point prediction must lie in [0, 1], got {prediction.min()} to {prediction.max()}"
        )
    return np.rint(prediction * 255).astype(np.uint8)


def as_mask(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W), 0 or 255. Raises ValueError."""
    if mask.ndim != 2 or mask.size == 0 or mask.dtype not in (np.uint8, np.bool_):
        raise ValueError(f"a mask must be uint8 or bool (H, W), got {mask.dtype} {mask.shape}")
    return cv2.threshold(mask.view(np.uint8), 0, 255, cv2.THRESH_BINARY)[1]


def saliency_of_levels(prediction: np.ndarray, normalise: bool) -> np.ndarray:
    """float64 (256,) in [0, 1], not decreasing: the saliency that each level of the map represents.

    prediction: uint8 (H, W). With `normalise` its lowest and highest levels become 0 and 1, unless it is constant.
    """
    values = np.arange(LEVELS) / 255
    if not normalise:
        return values
    low, high = values[prediction.min()], values[prediction.max()]
    return np.clip((values - low) / (high - low), 0, 1) if high > low else values


def cut(prediction: np.ndarray, threshold: float, normalise: bool = False) -> np.ndarray:
    """bool (H, W), true where the saliency of the map, uint8 (H, W), is at least the threshold."""
    return prediction >= int(np.searchsorted(saliency_of_levels(prediction, normalise), threshold))


def _counts(prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """int64 (4, 2, 256): for each quadrant of the S-measure, the pixels of each level off and on the object."""
    counts = np.zeros((4, 2, LEVELS), np.int64)
    for quadrant, area in enumerate(centroid_quadrants(mask)):
        if mask[area].size:
            counts[quadrant, 1] = _histogram_inside(prediction[area], mask[area])
            counts[quadrant, 0] = _histogram(prediction[area]) - counts[quadrant, 1]
    return counts


def _histogram_inside(prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    box = slice(top, top + height), slice(left, left + width)
    return _histogram(prediction[box], mask[box]) if width else np.zeros(LEVELS, np.int64)


def _histogram(prediction: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """int64 (256,): pixels of each level where the mask, if given, is not 0. Three times as fast as np.bincount."""
    if prediction.size > _MOST_COUNTED:
        return np.bincount(prediction.ravel() if mask is None else prediction[mask > 0], minlength=LEVELS)
    return cv2.calcHist([prediction], [0], mask, [LEVELS], [0, LEVELS]).ravel().astype(np.int64)


def _at_least(histogram: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many pixels have a saliency of at least 0/255, 1/255, ..., 255/255, after rounding down to these values."""
    levels = (values * 255).astype(np.uint8)
    return np.cumsum(np.bincount(levels, weights=histogram, minlength=LEVELS)[::-1])[::-1]


def _overlap(foreground: np.ndarray, background: np.ndarray, salient: np.ndarray) -> float:
    union = foreground.sum() + background[salient].sum()
    return float(foreground[salient].sum() / union) if union else 1.0


def _alignment(true_positives: np.ndarray, positives: np.ndarray, objects: int, size: int) -> np.ndarray:
    """The E-measure (Fan et al., IJCAI 2018) at every cut: the mean of (1 + alignment)^2 / 4 over the pixels.

    The alignment of two binary images, each minus its mean, has four values, one for each of TP, FP, FN, TN.
    """
    negatives = size - positives
    if objects == 0:
        total = negatives
    elif objects == size:
        total = positives
    else:
        false_negatives = objects - true_positives
        parts = true_positives, positives - true_positives, false_negatives, negatives - false_negatives
        mean_map, mean_mask = positives / size, objects / size
        pairs = [(a - mean_map, b - mean_mask) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
        total = sum(part * (1 + 2 * a * b / (a**2 + b**2 + _EPS)) ** 2 / 4 for part, (a, b) in zip(parts, pairs))
    return total / (size - 1 + _EPS)
