"""From the network's saliency to pictures at the size of the source frame.

A map is the plain saliency, 0 to 1 written as 0 to 255, so that a value means the same in every frame and a mask can be
cut from it. The authors' script instead stretched every frame's map to its own minimum and maximum, which makes an empty
frame look as salient as a full one; for their numbers apply (x - min) / (max - min) to each map, as evaluation tools do.
"""

from __future__ import annotations

import cv2
import numpy as np

from pdb_saliency.options import THRESHOLD

_TINT = (0, 0, 255)  # BGR
_TINT_STRENGTH = 0.6
_CONTOUR = ((0, 0, 0), (0, 255, 255))  # BGR: yellow on black, seen on any ground.
_CONTOUR_PART = 200  # Of the shorter side: the width of the yellow line.
_SOFT_EDGE = 0.1  # Saliency, to either side of the threshold, over which a cut-out fades.
_GAP = 4  # Pixels between pictures side by side.


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


def draw_contour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the outline of the mask in yellow on black. image: uint8 (H, W, 3), BGR, changed in place."""
    width = max(1, round(min(mask.shape) / _CONTOUR_PART))
    outlines = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    for colour, thickness in zip(_CONTOUR, (3 * width, width)):
        cv2.drawContours(image, outlines, -1, colour, thickness)
    return image


def to_cutout(image: np.ndarray, saliency: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The object on nothing, uint8 (H, W, 4), BGRA, with a soft edge: alpha rises from 0 to 255 around the threshold.

    Where alpha is 0 the colours are 0, too: what was left out cannot be brought back. image: uint8 (H, W, 3), BGR.
    """
    alpha = np.clip((saliency - (threshold - _SOFT_EDGE)) / (2 * _SOFT_EDGE), 0, 1)
    alpha = np.rint(255 * alpha).astype(np.uint8)
    return np.dstack([image * (alpha > 0)[:, :, None], alpha])


def side_by_side(image: np.ndarray, map: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    """Frame, map and overlay in a row. uint8 (H, W, 3), (H, W), (H, W, 3); returns uint8 (H, 3W + 8, 3)."""
    gap = np.zeros((len(image), _GAP, 3), np.uint8)
    return np.concatenate([image, gap, cv2.cvtColor(map, cv2.COLOR_GRAY2BGR), gap, overlay], axis=1)
