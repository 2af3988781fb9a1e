"""A picture without its object."""

from __future__ import annotations

import cv2
import numpy as np

from .cutouts import nearest_pixel


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the picture with what the mask covers replaced by its surroundings.

    image: uint8 (H, W, 3). mask: uint8 (H, W), 0 or 255, filled with a margin of some pixels because outlines bleed.
    Each pixel of the hole takes the texture of its mirror image at the hole's edge; where that lies outside of the picture
    or in the hole, and a little everywhere, the smooth colour that spreads from the edge. Good for the strips that a moving
    object uncovers; a large hole looks smeared.
    """
    if not mask.any():
        return image
    margin = max(3, round(0.01 * max(mask.shape)))
    hole = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
    left, top, width, height = cv2.boundingRect(hole)
    # As far as mirror images and smoothing reach.
    reach = min(width, height) // 2 + 40
    box = np.s_[max(top - reach, 0) : top + height + reach, max(left - reach, 0) : left + width + reach]
    filled = image.copy()
    if not hole[box].all():
        filled[box] = _fill(image[box], hole[box])
    return filled


def _fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    height, width = hole.shape
    rows, columns = np.nonzero(hole)
    nearest = nearest_pixel(255 - hole)[rows, columns]
    near_rows, near_columns = np.divmod(nearest, width)
    mirror_rows, mirror_columns = 2 * near_rows - rows, 2 * near_columns - columns
    inside = (mirror_rows >= 0) & (mirror_rows < height) & (mirror_columns >= 0) & (mirror_columns < width)
    source = np.where(inside, mirror_rows.clip(0, height - 1) * width + mirror_columns.clip(0, width - 1), nearest)
    good = inside & (hole.reshape(-1)[source] == 0)
    smooth, low = (cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in _smooth(image, hole))
    # Texture is what the mirror image differs by from its own surroundings, so that no edge shows where mirrors meet.
    texture = image.reshape(-1, 3)[source] - low.reshape(-1, 3)[source]
    filled = image.copy()
    filled[rows, columns] = np.clip(smooth[rows, columns] + texture * good[:, None], 0, 255)
    return filled


def _smooth(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of a quarter of the size, float32 (h, w, 3): the colour that spreads into the hole, and the mean of what
    is known within some 15 pixels."""
    small = [max(round(side / 4), 1) for side in hole.shape[::-1]]
    known = cv2.resize(255 - hole, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    known[known < 0.2] = 0  # What little is known of a pixel has been rounded to 8 bits.
    light = cv2.resize(cv2.bitwise_and(image, image, mask=255 - hole), small, interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    low = cv2.blur(light, (7, 7)) / np.maximum(cv2.blur(known, (7, 7)), 0.02)[:, :, None]
    return _spread(light / np.maximum(known, 0.2)[:, :, None], known), low


def _spread(colour: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 (h, w, 3): the colour, and where it is not known at all its averages over ever larger squares.

    colour: float32 (h, w, 3). known: float32 (h, w), what share of a pixel it stands for.
    """
    if (known > 0).all() or known.size == 1:
        return colour
    half = [max(side // 2, 1) for side in known.shape[::-1]]
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    light = cv2.resize(colour * known[:, :, None], half, interpolation=cv2.INTER_AREA)
    coarse = _spread(light / np.maximum(weight, 1e-6)[:, :, None], weight)
    larger = cv2.resize(coarse, known.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(known[:, :, None] > 0, colour, larger)
