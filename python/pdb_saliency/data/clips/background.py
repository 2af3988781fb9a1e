"""Changes to the background of a composite: its own object is removed, and scenery such as water or leaves moves."""

from __future__ import annotations

import cv2
import numpy as np

from .cutouts import nearest_pixel
from .layers import Wobble

_GRID = 48  # Cells a side: the waves of Sway are smooth, so they are computed on a coarse grid and scaled up.


class Sway:
    """Moves scenery such as water, leaves or grass: a random region of a picture ripples in travelling waves.

    The region has soft borders.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        """size: (height, width) of the picture."""
        height, width = self._size = size
        self._wobble = Wobble(
            amplitude=rng.uniform(0.002, 0.012, 2) * width,
            waves=rng.uniform(1, 6, (2, 2)) * rng.choice([-1, 1], (2, 2)),
            frequency=2 * np.pi / rng.uniform(6, 24),
            phase=rng.uniform(0, 2 * np.pi, 2),
        )
        x, y = np.meshgrid(np.linspace(0, 1, _GRID), np.linspace(0, 1, _GRID))
        centre, radius = rng.random(2), rng.uniform(0.3, 0.9)
        # Wider than high, like water and meadows.
        distance = np.hypot((x - centre[0]) / 2, y - centre[1]) / radius
        self._strength = np.clip(2 - 2 * distance, 0, 1).astype(np.float32)
        self._x, self._y = (x * (width - 1)).astype(np.float32), (y * (height - 1)).astype(np.float32)

    def __call__(self, picture: np.ndarray, time: float) -> np.ndarray:
        """uint8 (H, W, 3): the picture at `time`, in frames."""
        height, width = self._size
        shifts = (shift * self._strength for shift in self._wobble.shift(self._x, self._y, self._size, time))
        map_x, map_y = (cv2.resize(shift, (width, height), interpolation=cv2.INTER_CUBIC) for shift in shifts)
        map_x += np.arange(width, dtype=np.float32)
        map_y += np.arange(height, dtype=np.float32)[:, None]
        return cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the picture with the masked object replaced by its surroundings.

    image: uint8 (H, W, 3). mask: uint8 (H, W), 0 or 255; a margin of a few pixels is filled as well, because an
        object's colour bleeds over its outline.
    Each pixel of the hole gets a smooth colour that spreads from the hole's edge, and the texture of the pixel's mirror
    image at the edge, unless that lies outside the picture or in the hole. Good for the strips that a moving object
    uncovers; a large hole looks smeared.
    """
    if not mask.any():
        return image
    margin = max(3, round(0.01 * max(mask.shape)))
    hole = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1)))
    left, top, width, height = cv2.boundingRect(hole)
    # As far as mirror images and smoothing can reach.
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
    # Texture: how the mirror image differs from its own surroundings, so that no edge appears where mirror images meet.
    texture = image.reshape(-1, 3)[source] - low.reshape(-1, 3)[source]
    filled = image.copy()
    filled[rows, columns] = np.clip(smooth[rows, columns] + texture * good[:, None], 0, 255)
    return filled


def _smooth(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of a quarter of the width and height, float32 (h, w, 3).

    The colour that spreads into the hole, and the mean of the known pixels within about 15 pixels.
    """
    small = [max(round(side / 4), 1) for side in hole.shape[::-1]]
    known = cv2.resize(255 - hole, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    known[known < 0.2] = 0  # A colour known from so small a part of a pixel is inexact, being rounded to 8 bits.
    light = cv2.resize(cv2.bitwise_and(image, image, mask=255 - hole), small, interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    low = cv2.blur(light, (7, 7)) / np.maximum(cv2.blur(known, (7, 7)), 0.02)[:, :, None]
    return _spread(light / np.maximum(known, 0.2)[:, :, None], known), low


def _spread(colour: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 (h, w, 3): the colour where it is known, elsewhere averages of it over larger and larger squares.

    colour: float32 (h, w, 3). known: float32 (h, w), the share of each pixel in which its colour is known.
    """
    if (known > 0).all() or known.size == 1:
        return colour
    half = [max(side // 2, 1) for side in known.shape[::-1]]
    weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
    light = cv2.resize(colour * known[:, :, None], half, interpolation=cv2.INTER_AREA)
    coarse = _spread(light / np.maximum(weight, 1e-6)[:, :, None], weight)
    larger = cv2.resize(coarse, known.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(known[:, :, None] > 0, colour, larger)
