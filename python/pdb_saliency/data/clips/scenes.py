"""Stills and plain pictures as scenes, at a bounded size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.data.sets.items import Still
from pdb_saliency.data.sets.read import read_frame, read_mask


def read_scene(source: Still | Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (H, W, 3), BGR, and the mask of its salient object, uint8 (H, W), 0 or 255; a path has none.

    Pictures with a longest side of more than 1.5 `side` are shrunk to it: a frame of `side` pixels shows a part of them.
    Raises InputError: a file cannot be read, or picture and mask differ in size.
    """
    if isinstance(source, Still):
        image = read_frame(source.image)
        mask = read_mask([source.mask], image.shape[:2])
    else:
        image = read_frame(source)
        mask = np.zeros(image.shape[:2], np.uint8)
    height, width = frame_size(mask.shape, round(1.5 * side))
    if (height, width) == mask.shape:
        return image, mask
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def frame_size(picture: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of the picture, scaled down so that the longest is `side` at most."""
    scale = min(1, side / max(picture))
    return max(round(picture[0] * scale), 1), max(round(picture[1] * scale), 1)


def sample_points(mask: np.ndarray) -> np.ndarray:
    """float64 (n, 2): some 200 points (x, y) of the mask, or all if they are fewer."""
    rows, columns = np.nonzero(mask)
    some = slice(None, None, max(len(rows) // 200, 1))
    return np.stack([columns[some], rows[some]], axis=1).astype(float)
