"""What is made of one frame and its saliency, each part at most once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from pdb_saliency.video.frame import Frame

from .postprocess import draw_contour, side_by_side, to_cutout, to_mask, to_overlay

_BAND = 1 << 20  # Pixels.


class Result:
    """One frame with its map, and what follows from them.

    index: of the frame, from 0. map: uint8 (H, W), 255 times saliency. Everything is made from the map, not from the
    saliency before it was rounded: so an interrupted run can make it again from the maps it left.
    """

    def __init__(self, frame: Frame, index: int, map: np.ndarray, threshold: float):
        self.frame = frame
        self.index = index
        self.map = map
        self.threshold = threshold

    @cached_property
    def saliency(self) -> np.ndarray:
        """float32 (H, W) in [0, 1]."""
        return np.divide(self.map, np.float32(255), dtype=np.float32)

    @cached_property
    def mask(self) -> np.ndarray:
        """uint8 (H, W), 0 or 255."""
        return to_mask(self.saliency, self.threshold)

    @cached_property
    def overlay(self) -> np.ndarray:
        """uint8 (H, W, 3), BGR: tinted where salient, the mask's outline in yellow."""
        return draw_contour(self._in_bands(to_overlay, 3), self.mask)

    @cached_property
    def cutout(self) -> np.ndarray:
        """uint8 (H, W, 4), BGRA."""
        return self._in_bands(lambda image, saliency: to_cutout(image, saliency, self.threshold), 4)

    @cached_property
    def side(self) -> np.ndarray:
        """uint8 (H, 3W + 2 gaps, 3), BGR: frame, map, overlay."""
        return side_by_side(self.frame.image, self.map, self.overlay)

    def _in_bands(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray], channels: int) -> np.ndarray:
        """function(image, saliency), pixel by pixel, a band of rows at a time: in floats a frame can fill the memory."""
        height, width = self.map.shape
        rows = max(1, _BAND // width)
        made = np.empty((height, width, channels), np.uint8)
        for top in range(0, height, rows):
            band = slice(top, top + rows)
            made[band] = function(self.frame.image[band], self.saliency[band])
        return made
