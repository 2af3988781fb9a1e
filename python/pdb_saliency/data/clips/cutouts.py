"""Cut-outs: objects with an alpha channel, from picture files or from the masks of still sets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pdb_saliency.data.sets.items import Still
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.errors import InputError

_MARGIN = 3  # Transparent pixels around a cut-out, so that its edge stays soft however it is warped.
# In tuxpaint-stamps-default: folders that contain only drawings or writing, and mirrored copies of other files.
DRAWINGS = ("cartoon", "symbols", "roadsigns", "toys", "plastic", "_mirror", "_flip")


class Cutout(Protocol):
    """An object to paste. name: for people, where it comes from."""

    name: str

    def load(self) -> np.ndarray:
        """uint8 (h, w, 4), BGRA, not premultiplied, with a transparent margin. Raises InputError."""
        ...


@dataclass(frozen=True)
class CutoutFile:
    """A picture file with an alpha channel."""

    name: str
    path: Path

    def load(self) -> np.ndarray:
        image = _read_rgba(self.path)
        if image is None or not image[..., 3].any():
            raise InputError(f"{self.path}: expected an object on a transparent background, got a picture without one")
        left, top, width, height = cv2.boundingRect(image[..., 3])
        return _with_margin(image[top : top + height, left : left + width])


@dataclass(frozen=True)
class StillCutout:
    """The largest masked object of a still."""

    still: Still

    @property
    def name(self) -> str:
        return self.still.name

    def load(self) -> np.ndarray:
        image = read_frame(self.still.image)
        return cut_out(image, largest_object(read_mask([self.still.mask], image.shape[:2])))


def load_cutouts(
    folder: Path, *, min_side: int = 90, min_bits: float = 7.0, skip: Sequence[str] = DRAWINGS
) -> list[Cutout]:
    """The photographic cut-outs among the .png files below a folder.

    For example in /usr/share/tuxpaint/stamps of Debian's `tuxpaint-stamps-default`, where 271 of 796 pictures pass,
    nearly all of them photographs. Left out are files without an alpha channel; files whose path below `folder`
    contains one of the words `skip`; those with a longest side of less than `min_side` pixels; drawings, which have
    less than `min_bits` of entropy in the colours (6 bits a channel) of their opaque pixels; and objects such as glass,
    of which less than half is opaque. Every file is decoded once here, and again whenever it is used.
    Raises InputError: no such folder, no suitable cut-out in it, or a file that does not decode.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with RGBA pictures (.png), found none")
    paths = [
        path
        for path in sorted(folder.rglob("*.png"))
        if not any(word in str(path.relative_to(folder)) for word in skip)
    ]
    kept = []
    for path in paths:
        image = _read_rgba(path)
        if image is not None and max(image.shape[:2]) >= min_side and _is_photograph(image, min_bits):
            kept.append(CutoutFile(str(path.relative_to(folder).with_suffix("")), path))
    if not kept:
        raise InputError(
            f"{folder}: expected photographic cut-outs (.png with alpha, longest side of {min_side} pixels or more), "
            f"found none among {len(paths)} pictures"
        )
    return kept


def cutouts_of(
    stills: Sequence[Still],
    *,
    min_area: float = 0.01,
    max_area: float = 0.45,
    max_cut: float = 0.02,
    workers: int = 2,
) -> list[Cutout]:
    """The largest object of each still, if it stands free in its picture.

    Left out are objects that cover less than `min_area` or more than `max_area` of the picture, those less than 24
    pixels wide or high, and those that the picture's border cuts off along more than `max_cut` of their bounding box's
    perimeter: cut edges are straight, and give a pasted object away. All masks are read here, by `workers` threads;
    pictures are read when they are used.
    Raises InputError: a mask cannot be read, or no object is suitable.
    """

    def is_suitable(still: Still) -> bool:
        return stands_free(largest_object(read_mask([still.mask])), min_area, max_area, max_cut)

    with ThreadPoolExecutor(workers) as pool:
        kept = [StillCutout(still) for still, good in zip(stills, pool.map(is_suitable, stills)) if good]
    if not kept:
        raise InputError(
            f"expected stills with an object that stands free in its picture, found none among {len(stills)}"
        )
    return kept


def largest_object(mask: np.ndarray) -> np.ndarray:
    """uint8 (H, W), 0 or 255: the largest 8-connected part of a mask, which has the same format."""
    # Finding outlines is ten times faster than labelling.
    if len(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]) <= 1:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    return np.where(labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax(), np.uint8(255), np.uint8(0))


def stands_free(mask: np.ndarray, min_area: float = 0.01, max_area: float = 0.45, max_cut: float = 0.02) -> bool:
    """Whether an object is not too small, too large or cut off, see `cutouts_of`. mask: uint8 (H, W), 0 or 255."""
    _, _, width, height = cv2.boundingRect(mask)
    on_border = sum(np.count_nonzero(line) for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    share = np.count_nonzero(mask) / mask.size
    return min(width, height) >= 24 and min_area <= share <= max_area and on_border <= max_cut * 2 * (width + height)


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4), BGRA: the masked object, cropped, with a margin, a soft edge and no colour of its surroundings.

    image: uint8 (H, W, 3). mask: uint8 (H, W), 0 or 255, not empty. Alpha falls from 1 to 0 over about three pixels,
    centred one pixel inside the mask's edge, because masks are drawn a little too wide. From two pixels inside the edge
    outwards, each pixel has the colour of the nearest pixel further inside.
    """
    left, top, width, height = cv2.boundingRect(mask)
    box = np.s_[top : top + height, left : left + width]
    image, mask = _with_margin(image[box]), _with_margin(mask[box])
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=2)
    inside = inside if inside.any() else mask
    colour = nearest_colour(image, inside)
    # Erosion would leave nothing of a thin object.
    body = cv2.erode(mask, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(body if body.any() else mask, (0, 0), 0.9)
    return cv2.merge([colour, alpha])


def nearest_colour(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the picture with each pixel where `known` is 0 in the colour of the nearest one where it is not.

    known: uint8 (H, W).
    """
    nearest = nearest_pixel(known)
    return image.reshape(-1, image.shape[2])[nearest]


def nearest_pixel(known: np.ndarray) -> np.ndarray:
    """int64 (H, W): for each pixel, the flat index of the nearest one where `known`, uint8 (H, W), is not 0."""
    empty = np.where(known > 0, np.uint8(0), np.uint8(255))
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    index = np.zeros(labels.max() + 1, np.int64)
    flat = np.flatnonzero(known)
    index[labels.reshape(-1)[flat]] = flat
    return index[labels]


def _with_margin(image: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(image, *[_MARGIN] * 4, cv2.BORDER_CONSTANT, value=0)


def _read_rgba(path: Path) -> np.ndarray | None:
    """uint8 (H, W, 4), BGRA; None for a picture without alpha. Raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        # OpenCV decodes a truncated PNG without an error.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if b"IEND" in data else None
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: expected a PNG picture with alpha, got {len(data)} bytes that do not decode")
    if image.ndim != 3 or image.shape[2] != 4:
        return None
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def _is_photograph(image: np.ndarray, min_bits: float) -> bool:
    opaque = image[..., 3] >= 250
    if np.count_nonzero(opaque) < max(0.5 * np.count_nonzero(image[..., 3]), 1):
        return False
    blue, green, red = (image[opaque][:, :3] >> 2).astype(np.int64).T
    counts = np.unique((blue * 64 + green) * 64 + red, return_counts=True)[1]
    share = counts / counts.sum()
    return -(share * np.log2(share)).sum() >= min_bits
