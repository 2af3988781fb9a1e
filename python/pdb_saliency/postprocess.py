"""From the network's saliency to pictures at the size of the source frame.

A map is the plain saliency, 0 to 1 written as 0 to 255, so that a value means the same in every frame and a mask can be
cut from it. The authors' script instead stretched every frame's map to its own minimum and maximum, which makes an empty
frame look as salient as a full one; for their numbers apply (x - min) / (max - min) to each map, as evaluation tools do.
"""

from __future__ import annotations

import cv2
import numpy as np

from .options import THRESHOLD

_TINT = (0, 0, 255)  # BGR
_TINT_STRENGTH = 0.6


def to_source_size(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres. saliency: float32 (h, w) in [0, 1]; returns float32 (height, width) in [0, 1]."""
    resized = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(resized, 0, 1, out=resized)


def to_map(saliency: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 255 times saliency, rounded."""
    return np.rint(saliency * 255).astype(np.uint8)


def to_mask(saliency: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """uint8 (H, W): 255 where saliency >= threshold, else 0."""
    return np.where(saliency >= threshold, np.uint8(255), np.uint8(0))


def to_overlay(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The frame tinted red in proportion to its saliency. image: uint8 (H, W, 3), BGR; returns the same."""
    alpha = _TINT_STRENGTH * saliency[:, :, None]
    return np.rint(image + alpha * (np.asarray(_TINT, np.float32) - image)).astype(np.uint8)
