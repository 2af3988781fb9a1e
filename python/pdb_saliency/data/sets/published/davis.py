"""DAVIS 2016 and 2017: DAVIS/JPEGImages/480p/SEQUENCE and Annotations/480p/SEQUENCE, with lists of the splits.

2016  ImageSets/480p/{train,val}.txt list pairs of files. The paper's test set is "val".
2017  ImageSets/2017/{train,val}.txt list sequences. The colours of a palette are objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pdb_saliency.data.sets.items import Video
from pdb_saliency.data.sets.layouts import make_video, pictures_in, subfolder
from pdb_saliency.errors import InputError

from .known_set import Items, KnownSet

_SPLITS = ("train", "val")
_FOLDERS = ("davis", "davis2016", "davis2017", "davisdata", "davis2017trainval480p", "davis2017trainval")


def _open_2016(folder: Path, split: str | None) -> Items:
    sequences: dict[str, list[tuple[Path, Path]]] = {}
    for file, line in _listed(folder, "480p", split) if all(_frames_and_masks(folder)) else ():
        pair = [folder / part.lstrip("/") for part in line.split()]
        if len(pair) != 2:
            raise InputError(f"{file}: expected a picture and a mask in each line, got {line!r}")
        sequences.setdefault(pair[0].parent.name, []).append((pair[0], pair[1]))
    # The lists are authoritative: a file that they name and that is not there is missing.
    videos = [
        Video(name, tuple(frame for frame, _ in pairs), tuple((mask,) for _, mask in pairs))
        for name, pairs in sequences.items()
    ]
    return (), tuple(videos)


def _open_2017(folder: Path, split: str | None) -> Items:
    frames, masks = _frames_and_masks(folder)
    videos = []
    for _, name in _listed(folder, "2017", split) if frames and masks else ():
        objects = [(masks / name, pictures_in(masks / name))]
        videos.append(make_video(name, frames / name, pictures_in(frames / name), objects))
    return (), tuple(videos)


def _frames_and_masks(folder: Path) -> tuple[Path | None, Path | None]:
    return subfolder(folder, "JPEGImages/480p"), subfolder(folder, "Annotations/480p")


def _listed(folder: Path, year: str, split: str | None) -> Iterator[tuple[Path, str]]:
    """(list, line) for the lines of the lists of one split or of all, without empty lines. Raises InputError."""
    for name in _SPLITS:
        file = folder / "ImageSets" / year / f"{name}.txt"
        if split not in (None, name) or not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not a text'})") from error
        yield from ((file, line.strip()) for line in text.splitlines() if line.strip())


DAVIS_2016 = KnownSet(
    _FOLDERS,
    "DAVIS/JPEGImages/480p, Annotations/480p and ImageSets/480p/{train,val}.txt",
    _open_2016,
    _SPLITS,
    aliases={"test": "val"},  # As the paper calls it.
)
DAVIS_2017 = KnownSet(
    _FOLDERS, "DAVIS/JPEGImages/480p, Annotations/480p and ImageSets/2017/{train,val}.txt", _open_2017, _SPLITS
)
