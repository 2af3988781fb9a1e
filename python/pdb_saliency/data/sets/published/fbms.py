"""FBMS-59: FBMS_Trainingset/Trainingset and FBMS_Testset/Testset, or FBMS/Trainingset and FBMS/Testset.

SEQUENCE/*.jpg are the frames, and SEQUENCE/GroundTruth/*.ppm, or *.pgm if there are no .ppm, the annotation of some of
them: each region of the picture has a colour (.ppm) or a grey level (.pgm). Files *PROB* are not masks, and *Def.dat
defines which colour is the background.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.data.sets.items import Video
from pdb_saliency.data.sets.layouts import make_video, pictures_in, subfolder, subfolders

from .known_set import Items, KnownSet

# Grey levels above a tenth of white are foreground, except in two sequences, in which not every region is an object.
# These are the levels of the conversion that most papers on video segmentation since Motion Grouping (ICCV 2021)
# evaluate with.
_LEVEL = 0.1
_LEVELS = {"marple2": 0.4, "marple7": 0.05}
_BLACK, _WHITE = 0, 0xFFFFFF


def _open(folder: Path, split: str | None) -> Items:
    videos: list[Video] = []
    for name, part in {"train": "Trainingset", "test": "Testset"}.items():
        forms = (f"FBMS_{part}/{part}", f"FBMS_{part}", part)
        place = next(filter(None, (subfolder(folder, form) for form in forms)), None)
        if place and split in (None, name):
            videos += map(_video, subfolders(place))
    return (), tuple(video for video in videos if video.frames)


def _video(folder: Path) -> Video:
    truth = folder / "GroundTruth"
    # Next to the .ppm, which show all regions, there are .pgm of the same names that lack some.
    by_suffix = (pictures_in(truth, (suffix,)) for suffix in (".ppm", ".pgm", ".png"))
    masks = next((found for found in map(_without_prob, by_suffix) if found), {})
    return make_video(folder.name, folder, pictures_in(folder, (".jpg", ".png")), [(truth, masks)])


def _without_prob(masks: dict[str, Path]) -> dict[str, Path]:
    return {stem: path for stem, path in masks.items() if "PROB" not in stem}


def _foreground(image: np.ndarray, path: Path) -> np.ndarray:
    """uint8 (H, W), 0 or 255: every pixel that does not have the background's colour.

    image: uint8 (H, W, 3), BGR. path: SEQUENCE/GroundTruth/FILE. A "...Def.dat" next to it may define the background's
    colour, that of region 0. Otherwise it is black in .pgm; in .ppm it is white or black, whichever is more frequent on
    the picture's border. If it is black, grey levels up to a tenth of white are background as well.
    """
    level = _LEVELS.get(path.parent.parent.name)
    colour = _defined_background(path)
    if colour is None:
        colour = _border_colour(image) if path.suffix.lower() == ".ppm" else _BLACK
    channels = colour & 255, colour >> 8 & 255, colour >> 16
    other = cv2.bitwise_not(cv2.inRange(image, channels, channels))
    if level is None and colour == _BLACK and path.suffix.lower() == ".pgm":
        level = _LEVEL
    if level is not None:
        other[cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) <= level * 255] = 0
    return other


def _defined_background(path: Path) -> int | None:
    """The background's colour, 0xRRGGBB, if the sequence has a definition of it."""
    for file in sorted(path.parent.glob("*Def.dat")):
        try:
            found = re.search(r"Scale of region 0:\s*(\d+)", file.read_text(errors="replace"))
        except OSError:
            continue
        if found and int(found[1]) <= _WHITE:
            number = int(found[1])
            return number * 0x010101 if path.suffix.lower() == ".pgm" and number < 256 else number
    return None


def _border_colour(image: np.ndarray) -> int:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    white, black = ((border == value).all(axis=1).sum() for value in (255, 0))
    return _WHITE if white >= black else _BLACK


FBMS = KnownSet(
    ("fbms", "fbms59"),
    "FBMS_Trainingset/Trainingset/SEQUENCE and FBMS_Testset/Testset/SEQUENCE (or FBMS/Trainingset and FBMS/Testset)",
    _open,
    ("train", "test"),
    mask_formats={".ppm": _foreground, ".pgm": _foreground},
)
