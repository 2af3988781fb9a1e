"""The pictures and masks of data sets as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import InputError
from pdb_saliency.video.pictures import read_levels, read_picture

from . import fbms

# A mask that shows objects as grey levels has at most so many; soft edges have more, and no areas of one level.
_MOST_OBJECTS = 32
_AREA = np.ones((5, 5), np.uint8)
_TINGE = 64  # By so much the channels of a grey JPEG never differ.


def read_frame(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), BGR. Raises InputError when the file cannot be read or does not decode."""
    return read_picture(path)


def read_mask(paths: Sequence[Path], size: tuple[int, int] | None = None) -> np.ndarray:
    """The union of one or more mask files, uint8 (H, W), 0 or 255.

    Foreground is, in each file:
    - colours (a palette, one colour for an object): what is not black;
    - grey: what reaches half of white, which is right for masks with soft or JPEG-compressed edges. Where the levels are
      numbers of objects, foreground is what is not 0. They are where nothing reaches half of white, in 16 bits, and where
      a file that is not JPEG has a few levels, and one below half of white fills areas, as edges do not;
    - colours or dark objects in JPEG, which has noise around them: what reaches a quarter of the brightest;
    - .ppm and .pgm, which only FBMS has: see `fbms.foreground`.

    size: the (height, width) that the masks must have.
    Raises InputError when a file cannot be read or decoded, and for a wrong size.
    """
    if not paths:
        raise ValueError("a frame without annotation has no mask to read")
    union = None
    for path in paths:
        mask = _foreground(read_levels(path), path)
        size = size or mask.shape
        if mask.shape != tuple(size):
            expected, found = (f"{width}x{height}" for height, width in (size, mask.shape))
            raise InputError(f"{path}: a mask of {expected} pixels is expected, as its picture has, got {found}")
        union = mask if union is None else union | mask
    return union


def _foreground(image: np.ndarray, path: Path) -> np.ndarray:
    if image.dtype == np.uint16:  # Black but for numbers of objects: in 8 bits most of them would be black, too.
        return _numbered(image)
    if path.suffix.lower() in fbms.SUFFIXES:
        return fbms.foreground(image, path)
    blue, green, red = cv2.split(image) if image.ndim == 3 else (image,) * 3
    tinge = max(cv2.norm(blue, green, cv2.NORM_INF), cv2.norm(blue, red, cv2.NORM_INF)) if image.ndim == 3 else 0
    if path.suffix.lower() in (".jpg", ".jpeg", ".jpe"):
        return _of_jpeg(cv2.max(cv2.max(blue, green), red), tinge > _TINGE)
    if tinge:
        return cv2.threshold(cv2.max(cv2.max(blue, green), red), 0, 255, cv2.THRESH_BINARY)[1]
    level = 127 if cv2.minMaxLoc(green)[1] > 127 else 0
    mask = cv2.threshold(green, level, 255, cv2.THRESH_BINARY)[1]
    return _with_dark_objects(green, mask) if level else mask


def _of_jpeg(brightness: np.ndarray, colours: bool) -> np.ndarray:
    """Above half of white; where the objects are colours or darker than that, above a quarter of the brightest."""
    highest = cv2.minMaxLoc(brightness)[1]
    level = highest // 4 if colours or highest <= 127 else 127
    return cv2.threshold(brightness, level, 255, cv2.THRESH_BINARY)[1]


def _with_dark_objects(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask, and objects whose number is a level below half of white."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel()
    levels = np.flatnonzero(counts[1:128]) + 1
    if len(levels) == 0 or np.count_nonzero(counts) > _MOST_OBJECTS:
        return mask
    for level in levels:
        own = cv2.inRange(grey, int(level), int(level))
        if cv2.erode(own, _AREA, borderValue=0).any():
            mask = mask | own
    return mask


def _numbered(image: np.ndarray) -> np.ndarray:
    """Of 16 bits: what reaches half of white if anything does and the levels are many, else what is not 0."""
    soft = image.max() >= 32768 and len(np.unique(image)) > _MOST_OBJECTS
    return np.where(image >= (32768 if soft else 1), np.uint8(255), np.uint8(0))
