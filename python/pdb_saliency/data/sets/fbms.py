"""What is foreground in the ground truth of FBMS, which draws regions as colours (.ppm) or grey levels (.pgm)."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

SUFFIXES = (".ppm", ".pgm")

# Foreground is above a tenth of white, but for two sequences, in which not all that is drawn is an object. These are the
# levels of the conversion that most video segmentation papers since Motion Grouping (ICCV 2021) evaluate with.
_LEVEL = 0.1
_LEVELS = {"marple2": 0.4, "marple7": 0.05}
_BLACK, _WHITE = 0, 0xFFFFFF


def foreground(image: np.ndarray, path: Path) -> np.ndarray:
    """uint8 (H, W), 0 or 255: what is not of the background's colour.

    image: uint8 (H, W, 3), BGR. path: <sequence>/GroundTruth/<file>; beside it may lie a "...Def.dat", which tells the
    background's colour, region 0. Without, it is black in .pgm; in .ppm white or black, whichever more of the picture's
    border has. On black, grey levels up to a tenth of white are background, too.
    """
    level = _LEVELS.get(path.parent.parent.name)
    colour = _defined(path)
    if colour is None:
        colour = _of_border(image) if path.suffix.lower() == ".ppm" else _BLACK
    channels = colour & 255, colour >> 8 & 255, colour >> 16
    other = cv2.bitwise_not(cv2.inRange(image, channels, channels))
    if level is None and colour == _BLACK and path.suffix.lower() == ".pgm":
        level = _LEVEL
    if level is not None:
        other[cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) <= level * 255] = 0
    return other


def _defined(path: Path) -> int | None:
    """The background's colour, 0xRRGGBB, where the sequence's definition tells it."""
    for file in sorted(path.parent.glob("*Def.dat")):
        try:
            found = re.search(r"Scale of region 0:\s*(\d+)", file.read_text(errors="replace"))
        except OSError:
            continue
        if found and int(found[1]) <= _WHITE:
            number = int(found[1])
            return number * 0x010101 if path.suffix.lower() == ".pgm" and number < 256 else number
    return None


def _of_border(image: np.ndarray) -> int:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    white, black = ((border == value).all(axis=1).sum() for value in (255, 0))
    return _WHITE if white >= black else _BLACK
