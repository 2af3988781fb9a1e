"""The S-measure (Fan et al., "Structure-measure: a new way to evaluate foreground maps", ICCV 2017) of histograms."""

from __future__ import annotations

import cv2
import numpy as np

_EPS = np.spacing(1)
_ALPHA = 0.5  # Weight of the object-aware part.


def centroid_quadrants(mask: np.ndarray) -> list[tuple[slice, slice]]:
    """The four parts of the image around the centroid of the mask, some of which may be empty.

    mask: uint8 (H, W), non-zero on the object. The centroid's own row and column belong to the upper and the left
    parts; an empty mask is divided in the middle.
    """
    height, width = mask.shape
    left, top, columns, rows = cv2.boundingRect(mask)
    moments = cv2.moments(mask[top : top + rows, left : left + columns], binaryImage=True)
    area = moments["m00"]
    # Sums of integers, which float64 represents exactly: a centroid halfway between two pixels is rounded in the same
    # way as over the whole image.
    y, x = (
        ((moments["m01"] + top * area) / area, (moments["m10"] + left * area) / area)
        if area
        else (height / 2, width / 2)
    )
    y, x = int(np.round(y)) + 1, int(np.round(x)) + 1
    top, bottom, left, right = slice(0, y), slice(y, height), slice(0, x), slice(x, width)
    return [(top, left), (top, right), (bottom, left), (bottom, right)]


def structure_measure(quadrants: np.ndarray, values: np.ndarray) -> float:
    """The S-measure, in [0, 1].

    quadrants: int64 (4, 2, 256), pixels of each level off and on the object. values: float64 (256,), their saliency.

    It differs from pysodmetrics in two degenerate cases. An empty quadrant has no weight here, and makes the result of
    pysodmetrics NaN. A quadrant of constant saliency is always recognised as constant here; there it depends on
    rounding.
    """
    background, foreground = quadrants.sum(0)
    objects, size = foreground.sum(), quadrants.sum()
    if objects == 0:
        return float(1 - background @ values / size)
    if objects == size:
        return float(foreground @ values / size)
    share = objects / size
    object_score = share * _similarity(foreground, values) + (1 - share) * _similarity(background, 1 - values)
    weights = quadrants.sum((1, 2)) / size
    region_score = sum(weight * _ssim(*quadrant, values) for weight, quadrant in zip(weights, quadrants) if weight)
    return float(max(0.0, _ALPHA * object_score + (1 - _ALPHA) * region_score))


def _similarity(histogram: np.ndarray, values: np.ndarray) -> float:
    """The similarity of a region to one that is salient everywhere."""
    count = histogram.sum()
    mean = histogram @ values / count
    deviation = np.sqrt(histogram @ (values - mean) ** 2 / (count - 1)) if count > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _ssim(background: np.ndarray, foreground: np.ndarray, values: np.ndarray) -> float:
    """Structural similarity of the map and the mask in one region, without stabilising constants."""
    histogram = background + foreground
    count = histogram.sum()
    x, y = histogram @ values / count, foreground.sum() / count
    scale = count - 1 + _EPS
    if np.count_nonzero(histogram) == 1:
        x = values[np.argmax(histogram)]  # Exact, so that the variance is 0.
    variance_x = histogram @ (values - x) ** 2 / scale
    variance_y = (foreground.sum() * (1 - y) ** 2 + background.sum() * y**2) / scale
    covariance = (foreground @ (values - x) * (1 - y) - background @ (values - x) * y) / scale
    numerator = 4 * x * y * covariance
    denominator = (x**2 + y**2) * (variance_x + variance_y)
    if numerator != 0:
        return numerator / (denominator + _EPS)
    return 1.0 if denominator == 0 else 0.0
