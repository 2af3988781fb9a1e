"""One frame with its map, and the pictures made from them at the size of the source frame.

A map is the plain saliency, with 0 to 1 written as 0 to 255, so that a value means the same in every frame and a mask
can be cut from it. The authors' script instead stretches each frame's map to its own minimum and maximum, which makes
an empty frame look as salient as a full one. To reproduce their numbers, apply (x - min) / (max - min) to each map, as
evaluation tools do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.options import THRESHOLD
from pdb_saliency.video.frame import Frame

_BAND = 1 << 20  # pixels
_TINT = (0, 0, 255)  # BGR
_TINT_STRENGTH = 0.6
_CONTOUR = ((0, 0, 0), (0, 255, 255))  # BGR: yellow on black, visible on any background
_CONTOUR_PART = 200  # The yellow line's width is the shorter side of the frame divided by this.
_SOFT_EDGE = 0.1  # A cutout fades over this much saliency on either side of the threshold.
_GAP = 4  # pixels between pictures side by side


@dataclass(frozen=True)
class RunInfo:
    """What outputs may need to know about the run, apart from its frames.

    fps: the source's frames per second, None for pictures. count: the number of frames that the source declares, None
    if unknown. sound: a file whose sound track belongs to the frames. threshold: of the masks. title, facts: for the
    report, name and value of each.
    """

    fps: float | None = None
    count: int | None = None
    sound: Path | None = None
    threshold: float = THRESHOLD
    title: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


class Result:
    """One frame with its map, and what is made from them, each part at most once.

    index: of the frame, from 0. map: uint8 (H, W), 255 times saliency. Everything is made from the rounded map, not
    from the exact saliency, so that a resumed run makes the same from the maps that an interrupted one left.
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
        """function(image, saliency), a band of rows at a time: as floats, a whole large frame could fill the memory.

        function: works on each pixel by itself.
        """
        height, width = self.map.shape
        rows = max(1, _BAND // width)
        made = np.empty((height, width, channels), np.uint8)
        for top in range(0, height, rows):
            band = slice(top, top + rows)
            made[band] = function(self.frame.image[band], self.saliency[band])
        return made


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
    """Draws the mask's outline, yellow on black, into `image` and returns it. image: uint8 (H, W, 3), BGR."""
    width = max(1, round(min(mask.shape) / _CONTOUR_PART))
    outlines = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    for colour, thickness in zip(_CONTOUR, (3 * width, width)):
        cv2.drawContours(image, outlines, -1, colour, thickness)
    return image


def to_cutout(image: np.ndarray, saliency: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """The object with a soft edge: alpha rises from 0 to 255 around the threshold.

    image: uint8 (H, W, 3), BGR. Returns uint8 (H, W, 4), BGRA; where alpha is 0, the colours are 0 too, so that the
    background cannot be recovered.
    """
    alpha = np.clip((saliency - (threshold - _SOFT_EDGE)) / (2 * _SOFT_EDGE), 0, 1)
    alpha = np.rint(255 * alpha).astype(np.uint8)
    return np.dstack([image * (alpha > 0)[:, :, None], alpha])


def side_by_side(image: np.ndarray, map: np.ndarray, overlay: np.ndarray) -> np.ndarray:
    """Frame, map and overlay in a row. uint8 (H, W, 3), (H, W), (H, W, 3); returns uint8 (H, 3W + 8, 3)."""
    gap = np.zeros((len(image), _GAP, 3), np.uint8)
    return np.concatenate([image, gap, cv2.cvtColor(map, cv2.COLOR_GRAY2BGR), gap, overlay], axis=1)
