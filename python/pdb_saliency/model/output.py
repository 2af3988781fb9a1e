"""From the network's map to the map of the frame: upsampling, or a guided filter, and calibration.

The network predicts at a quarter of the resolution of its input, which is itself smaller than the frame. The guided
filter (He, Sun, Tang, "Guided image filtering", PAMI 2013) recovers sharp borders: within a window, it models the
saliency as an affine function of the frame's colours. This is its fast form (arXiv:1505.00996), which computes the
coefficients at half the network's input size and applies them at the frame's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

# Windows have 9 x 9 pixels at half the size of an input of 185 x 321, and the same fraction of other sizes.
_RADIUS = 4 / math.sqrt(93 * 161)
# Regularisation: variance of a colour in 0..1 below which colour differences are not seen as borders.
_EPS = 3e-5
# For larger frames (beyond 1080p) a smaller copy is the guide, because the map has no detail for so many pixels.
_MOST_PIXELS = 1 << 21


@dataclass(frozen=True)
class OutputSpec:
    """How the network's map becomes the map of the frame.

    guided: by the guided filter, else by bilinear upsampling. scale, offset: see `calibrated`.
    """

    guided: bool = False
    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, saliency: np.ndarray, image: np.ndarray) -> np.ndarray:
        """saliency: float32 (h, w) in [0, 1]. image: uint8 (H, W, 3). Returns float32 (H, W) in [0, 1]."""
        result = guided(saliency, image) if self.guided else to_source_size(saliency, *image.shape[:2])
        return calibrated(result, self.scale, self.offset)


def to_source_size(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres. saliency: float32 (h, w) in [0, 1]; returns float32 (height, width) in [0, 1]."""
    resized = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1, out=resized)


def guided(saliency: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The guided filter: the map at the frame's size, with its borders aligned with those in the frame.

    saliency: float32 (h, w) in [0, 1]. image: uint8 (H, W, 3). Returns float32 (H, W) in [0, 1].
    """
    height, width = image.shape[:2]
    shrink = math.sqrt(_MOST_PIXELS / (height * width))
    if shrink < 1:
        size = max(int(width * shrink), 1), max(int(height * shrink), 1)
        return cv2.resize(guided(saliency, cv2.resize(image, size, interpolation=cv2.INTER_AREA)), (width, height))
    half = tuple(-(-side // 2) for side in saliency.shape[::-1])
    coefficients = _coefficients(
        *(cv2.resize(picture, half, interpolation=cv2.INTER_AREA) for picture in (saliency, image))
    )
    *a, result = (
        cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in cv2.split(coefficients)
    )
    for factor, colour in zip(a, cv2.split(image)):
        cv2.accumulateProduct(factor, colour.astype(np.float32), result)
    return np.clip(result, 0, 1, out=result)


def calibrated(saliency: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """sigmoid(scale * logit(saliency) + offset): Platt scaling (1999), which turns saliency values into probabilities.

    saliency: float32 in [0, 1]; so is the result. 0 and 1 stay as they are.
    """
    if (scale, offset) == (1.0, 0.0):
        return saliency
    with np.errstate(divide="ignore"):
        odds = cv2.pow(saliency / (1 - saliency), scale)
    return 1 - 1 / (1 + odds * np.float32(math.exp(offset)))


def _coefficients(saliency: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """float32 (h, w, 4): a (3, for colours from 0 to 255) and b of saliency = a . colour + b.

    Those of a pixel are the means over all windows that contain it.
    """
    radius = max(round(_RADIUS * math.sqrt(saliency.size)), 1)
    guide = guide.astype(np.float32) / 255
    planes = [guide[:, :, i] for i in range(3)]
    products = [planes[i] * planes[j] for i, j in _PAIRS]
    means = _window_means(np.dstack([guide, saliency, guide * saliency[:, :, None], *products]), radius)
    mean, mean_saliency = means[:, :, :3], means[:, :, 3]
    covariance = means[:, :, 4:7] - mean * mean_saliency[:, :, None]
    variances = [
        means[:, :, 7 + k] - mean[:, :, i] * mean[:, :, j] + _EPS * (i == j) for k, (i, j) in enumerate(_PAIRS)
    ]
    a = _solve(variances, [covariance[:, :, i] for i in range(3)])
    b = mean_saliency - sum(a[i] * mean[:, :, i] for i in range(3))
    return _window_means(np.dstack([*(part / 255 for part in a), b]), radius)


_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def _window_means(channels: np.ndarray, radius: int) -> np.ndarray:
    return cv2.blur(channels, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)


def _solve(matrix: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """Solutions of symmetric 3x3 systems, by cofactors. matrix: the six entries of the upper triangle, row by row."""
    xx, xy, xz, yy, yz, zz = matrix
    cofactors = [
        [yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy],
        [xz * yz - xy * zz, xx * zz - xz * xz, xy * xz - xx * yz],
        [xy * yz - xz * yy, xy * xz - xx * yz, xx * yy - xy * xy],
    ]
    determinant = xx * cofactors[0][0] + xy * cofactors[0][1] + xz * cofactors[0][2]
    return [sum(cofactor * value for cofactor, value in zip(row, right)) / determinant for row in cofactors]
