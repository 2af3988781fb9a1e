"""The measures of the DAVIS-2016 benchmark (Perazzi et al., CVPR 2016) as its toolkit computes them.

They are the boundary F, and the statistics of J and F over a sequence. J, the intersection over union, comes from the
histograms of `saliency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

BOUNDARY_TOLERANCE = 0.008  # Relative to the diagonal of the image.
RECALL_LIMIT = 0.5
_BINS = 4
_BLOCK = np.ones((2, 2), np.uint8)


def boundary_measure(prediction: np.ndarray, mask: np.ndarray, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F: the harmonic mean of the precision and the recall of the prediction's boundary pixels.

    A boundary pixel is correct if the other boundary is within a radius of ceil(tolerance * diagonal) pixels.
    prediction, mask: (H, W), non-zero on the object. F is 1 if neither has a boundary (it is empty, or covers the whole
    image), and 0 if only one has.
    """
    boundaries = boundary(prediction), boundary(mask)
    boxes = [cv2.boundingRect(image) for image in boundaries]
    if not all(width for _, _, width, _ in boxes):
        return float(not any(width for _, _, width, _ in boxes))
    radius = int(np.ceil(tolerance * np.linalg.norm(mask.shape)))
    # Only the bounding box of a boundary and a margin of the radius matter for its pixels.
    precision, recall = (
        _share_near(own[_rows_columns(box)], _around(other, box, radius), radius)
        for own, other, box in ((*boundaries, boxes[0]), (*boundaries[::-1], boxes[1]))
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W), 1 on pixels that differ from their right, lower or lower right neighbour.

    This is the toolkit's seg2bmap. Neighbours outside the image do not count.
    """
    # If a pixel and these neighbours are not all equal, their maximum and minimum differ.
    return cv2.morphologyEx((mask != 0).view(np.uint8), cv2.MORPH_GRADIENT, _BLOCK, anchor=(0, 0))


def scored_frames(count: int) -> slice:
    """The frames of a sequence that count for J and F: all but the first and the last, as in the toolkit.

    Of sequences with one or two annotated frames, for which the toolkit has no rule, all frames count.
    """
    return slice(1, count - 1) if count > 2 else slice(0, count)


def statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, recall, decay) of the scores of one sequence's frames, in order, first and last already left out.

    recall: the fraction of frames above 0.5. decay: the mean of the first quarter minus that of the last; neighbouring
    quarters share the frame between them, as in the toolkit. At least one value.
    """
    scores = np.asarray(values, np.float64)
    edges = np.round(np.linspace(1, len(scores), _BINS + 1) + 1e-10).astype(int) - 1
    first, last = (scores[edges[i] : edges[i + 1] + 1].mean() for i in (0, _BINS - 1))
    return float(scores.mean()), float((scores > RECALL_LIMIT).mean()), float(first - last)


def _share_near(own: np.ndarray, other: np.ndarray, radius: int) -> float:
    """The fraction of boundary pixels of `own` that are within `radius` of one of `other`.

    other: covers the same part of the image and a margin of `radius` around it.
    """
    near = cv2.dilate(other, _disk(radius), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    near = near[radius : radius + own.shape[0], radius : radius + own.shape[1]]
    return np.count_nonzero(own & near) / np.count_nonzero(own)


def _rows_columns(box: Sequence[int]) -> tuple[slice, slice]:
    left, top, width, height = box
    return slice(top, top + height), slice(left, left + width)


def _around(image: np.ndarray, box: Sequence[int], margin: int) -> np.ndarray:
    """The box with a margin around it; zero outside the image."""
    left, top, width, height = box
    before, after = (max(margin - top, 0), max(margin - left, 0)), (top + height + margin, left + width + margin)
    cut = image[max(top - margin, 0) : after[0], max(left - margin, 0) : after[1]]
    padding = [(begin, max(end - size, 0)) for begin, end, size in zip(before, after, image.shape)]
    return np.pad(cut, padding)


@cache
def _disk(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
