"""The pictures and masks of data sets as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import InputError
from pdb_saliency.video.pictures import read_levels, read_picture

from .published import KNOWN

# A mask that numbers its objects by grey levels has at most this many; soft edges have more, and no areas of one level.
_MOST_OBJECTS = 32
_AREA = np.ones((5, 5), np.uint8)
_TINGE = 64  # The channels of a grey JPEG never differ by this much.


def read_frame(path: Path) -> np.ndarray:
    """A picture as uint8 (H, W, 3), BGR. Raises InputError if the file cannot be read or does not decode."""
    return read_picture(path)


def read_mask(paths: Sequence[Path], size: tuple[int, int] | None = None) -> np.ndarray:
    """The union of one or more mask files, uint8 (H, W), 0 or 255.

    What counts as foreground depends on the file:
    - coloured (a palette with one colour for each object): every pixel that is not black;
    - grey: pixels of at least half of white, which suits masks with soft or JPEG-compressed edges. If the levels are
      numbers of objects, every pixel that is not 0. The levels are taken as numbers if none reaches half of white, if
      they have 16 bits, and if a file other than JPEG has few levels and one below half of white fills areas, which
      soft edges do not do;
    - colours or dark objects in JPEG, which surrounds them with noise: pixels of at least a quarter of the brightest;
    - a suffix that only one published data set uses, such as FBMS's .ppm and .pgm: see `KnownSet.mask_formats`.

    size: the (height, width) that the masks must have; None: that of the first one.
    Raises InputError if a file cannot be read or decoded, and for a wrong size.
    """
    if not paths:
        raise ValueError("a frame without annotation has no mask to read")
    union = None
    for path in paths:
        mask = _foreground(read_levels(path), path)
        size = size or mask.shape
        if mask.shape != tuple(size):
            expected, found = (f"{width}x{height}" for height, width in (size, mask.shape))
            raise InputError(f"{path}: a mask of {expected} pixels is expected, like its picture, got {found}")
        union = mask if union is None else union | mask
    return union


def _foreground(image: np.ndarray, path: Path) -> np.ndarray:
    if image.dtype == np.uint16:  # Not reduced to 8 bits, which would turn most numbers of objects into black as well.
        return _numbered(image)
    suffix = path.suffix.lower()
    for known in KNOWN.values():
        if suffix in known.mask_formats:
            return known.mask_formats[suffix](image, path)
    blue, green, red = cv2.split(image) if image.ndim == 3 else (image,) * 3
    tinge = max(cv2.norm(blue, green, cv2.NORM_INF), cv2.norm(blue, red, cv2.NORM_INF)) if image.ndim == 3 else 0
    if suffix in (".jpg", ".jpeg", ".jpe"):
        return _of_jpeg(cv2.max(cv2.max(blue, green), red), tinge > _TINGE)
    if tinge:
        return cv2.threshold(cv2.max(cv2.max(blue, green), red), 0, 255, cv2.THRESH_BINARY)[1]
    level = 127 if cv2.minMaxLoc(green)[1] > 127 else 0
    mask = cv2.threshold(green, level, 255, cv2.THRESH_BINARY)[1]
    return _with_dark_objects(green, mask) if level else mask


def _of_jpeg(brightness: np.ndarray, colours: bool) -> np.ndarray:
    """Above half of white, or, for objects that are coloured or darker than that, above a quarter of the brightest."""
    highest = cv2.minMaxLoc(brightness)[1]
    level = highest // 4 if colours or highest <= 127 else 127
    return cv2.threshold(brightness, level, 255, cv2.THRESH_BINARY)[1]


def _with_dark_objects(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask together with the objects whose number is a level below half of white."""
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
    """For 16 bits: at least half of white if anything is that bright and the levels are many, else what is not 0."""
    soft = image.max() >= 32768 and len(np.unique(image)) > _MOST_OBJECTS
    return np.where(image >= (32768 if soft else 1), np.uint8(255), np.uint8(0))
