"""Scenery that stirs: water, leaves, grass."""

from __future__ import annotations

import cv2
import numpy as np

from .layers import Wobble

_GRID = 48  # The waves are smooth: they are computed on a grid of this size and scaled up.


class Sway:
    """A region of a picture, at a random place and with soft borders, rippling in waves that travel with time."""

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
        # Stretched sideways, as water and meadows are.
        distance = np.hypot((x - centre[0]) / 2, y - centre[1]) / radius
        self._strength = np.clip(2 - 2 * distance, 0, 1).astype(np.float32)
        self._x, self._y = (x * (width - 1)).astype(np.float32), (y * (height - 1)).astype(np.float32)

    def __call__(self, picture: np.ndarray, time: float) -> np.ndarray:
        """uint8 (H, W, 3): the picture at this time, in frames."""
        height, width = self._size
        shifts = (shift * self._strength for shift in self._wobble.shift(self._x, self._y, self._size, time))
        map_x, map_y = (cv2.resize(shift, (width, height), interpolation=cv2.INTER_CUBIC) for shift in shifts)
        map_x += np.arange(width, dtype=np.float32)
        map_y += np.arange(height, dtype=np.float32)[:, None]
        return cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
