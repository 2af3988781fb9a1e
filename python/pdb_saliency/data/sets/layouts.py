"""From folders to stills and videos: which picture belongs to which mask.

Pictures and masks are paired by their names without suffix. If no frame has a mask's name, a trailing `_gt` is dropped
from it; if that does not help either, the last number in it decides (`tennis_455.pgm` belongs to `tennis455.jpg`).

A picture or mask without a partner is kept, with the path at which the partner is expected, so that `check` can report
it by name. In a video that is annotated in part, a mask counts as missing if it interrupts a regular pattern of
annotated frames (`_missing_masks`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from pdb_saliency.errors import InputError
from pdb_saliency.video.pictures import IMAGE_SUFFIXES
from pdb_saliency.video.source import natural_key

from .items import Dataset, Still, Video

_IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "frames")
_MASKS = ("masks", "mask", "Annotations", "GroundTruth", "ground_truth_mask", "gt", "gts")


def recognise(folder: Path) -> Dataset | None:
    """The data set in a folder that has one of the general layouts; None for any other folder.

    The layouts are: <folder>/images + masks for stills; <folder>/JPEGImages/<sequence> + Annotations/<sequence> for
    videos; <folder> with pictures (.jpg) and masks (.png) of the same names. Instead of "images", the name may be
    image, imgs, img, JPEGImages or frames, and instead of "masks" mask, Annotations, GroundTruth, ground_truth_mask, gt
    or gts. For videos a folder 480p may be in between. A sequence may have a folder of masks for each of its objects.
    """
    images, masks = _first(folder, _IMAGES), _first(folder, _MASKS)
    if images is None or masks is None:
        stills = stills_in_one_folder(folder)
        return Dataset(folder.name, stills) if stills else None
    at_480p = subfolder(images, "480p"), subfolder(masks, "480p")
    images, masks = at_480p if all(at_480p) else (images, masks)
    if subfolders(images) and not (pictures_in(images) and pictures_in(masks)):
        return Dataset(folder.name, videos=videos_in(images, masks))
    stills = stills_in(images, masks)
    return Dataset(folder.name, stills) if stills else None


def stills_in(images: Path, masks: Path) -> tuple[Still, ...]:
    """The stills in two folders. Each may lack some of the names in the other."""
    return _paired(pictures_in(images), images, pictures_in(masks), masks)


def stills_in_one_folder(folder: Path) -> tuple[Still, ...]:
    """Pictures (.jpg) and masks (.png) of the same names, as in MSRA10K; nothing if less than half have a partner."""
    images, masks = pictures_in(folder, (".jpg",)), pictures_in(folder, (".png",))
    both, either = images.keys() & masks.keys(), images.keys() | masks.keys()
    return _paired(images, folder, masks, folder) if 2 * len(both) > len(either) else ()


def videos_in(frames: Path, masks: Path) -> tuple[Video, ...]:
    """The videos with frames in frames/<sequence> and masks in masks/<sequence>.

    masks/<sequence> contains masks, or else a folder of masks for each object. If `masks` contains no folders, it
    contains the masks of all sequences, named like their frames, as in ViSal.
    """
    if not subfolders(masks):
        return _videos_with_flat_masks(frames, masks)
    names = {path.name: None for path in subfolders(frames) + subfolders(masks)}
    videos = []
    for name in sorted(names, key=lambda name: natural_key(Path(name))):
        place = masks / name
        objects = [place] if pictures_in(place) else subfolders(place) or [place]
        found = [(folder, pictures_in(folder)) for folder in objects]
        videos.append(make_video(name, frames / name, pictures_in(frames / name), found))
    return tuple(videos)


def _videos_with_flat_masks(frames: Path, masks: Path) -> tuple[Video, ...]:
    """Masks that belong to no frame become a separate video, with missing frames, so that `check` reports them."""
    flat = pictures_in(masks)
    owners: dict[str, str] = {}
    videos = []
    for folder in subfolders(frames):
        shots = pictures_in(folder)
        mine = {stem: path for stem, path in flat.items() if stem in shots}
        for stem, path in mine.items():
            if owners.setdefault(stem, folder.name) != folder.name:
                raise InputError(
                    f"{path}: both {owners[stem]} and {folder.name} have a frame {stem}: expected one of them"
                )
        videos.append(make_video(folder.name, folder, shots, [(masks, mine)]))
    strays = {stem: path for stem, path in flat.items() if stem not in owners}
    return (*videos, make_video(masks.name, frames, {}, [(masks, strays)])) if strays else tuple(videos)


def make_video(
    name: str, folder: Path, frames: dict[str, Path], objects: Sequence[tuple[Path, dict[str, Path]]]
) -> Video:
    """A video of `frames` in `folder`. objects: for the masks of each object, their folder, and name -> file in it."""
    frames = dict(frames)
    numbers = _by_number(frames)
    annotations: list[dict[str, Path]] = []
    for _, files in objects:
        mine = {}
        for stem, path in files.items():
            frame = _frame_of(stem, frames, numbers)
            # If the frame of this mask is missing, it is expected under this name.
            frames.setdefault(frame, folder / f"{frame}{_suffix(frames.values(), '.jpg')}")
            if mine.setdefault(frame, path) != path:
                raise InputError(f"{mine[frame]} and {path.name} are both masks of frame {frame}: expected one of them")
        annotations.append(mine)
    order = sorted(frames, key=lambda stem: natural_key(Path(stem)))
    annotated = [any(stem in mine for mine in annotations) for stem in order]
    expected = {stem for stem, has, misses in zip(order, annotated, _missing_masks(annotated)) if has or misses}
    masks = []
    for stem in order:
        places = [
            mine.get(stem, place / f"{stem}{_suffix(mine.values(), '.png')}")
            for (place, _), mine in zip(objects, annotations)
        ]
        masks.append(tuple(places) if stem in expected else ())
    return Video(name, tuple(frames[stem] for stem in order), tuple(masks))


def pictures_in(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Name without suffix -> picture file, in natural order, without hidden files; nothing if there is no such folder.

    Raises InputError: two pictures have the same name, or the folder cannot be read.
    """
    found: dict[str, Path] = {}
    files = (path for path in _entries(folder, folders=False) if path.suffix.lower() in suffixes)
    for path in sorted(files, key=natural_key):
        if found.setdefault(path.stem, path) != path:
            raise InputError(f"{found[path.stem]} and {path.name} are both called {path.stem}: expected one of them")
    return found


def subfolder(folder: Path, relative: str) -> Path | None:
    """The folder at a relative path; None if there is none. Names may differ in capitals and punctuation."""
    for part in relative.split("/"):
        exact = folder / part
        alike = (child for child in subfolders(folder) if plain(child.name) == plain(part))
        folder = exact if exact.is_dir() else next(alike, None)
        if folder is None:
            return None
    return folder


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order, without hidden ones; nothing if there is no such folder.

    Raises InputError if the folder cannot be read.
    """
    return sorted(_entries(folder, folders=True), key=natural_key)


def plain(name: str) -> str:
    """A name reduced to lower-case letters and digits: "DUT-OMRON" and "dut_omron" become the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _entries(folder: Path, folders: bool) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
            return [folder / entry.name for entry in seen if entry.is_dir() == folders]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next(filter(None, (subfolder(folder, name) for name in names)), None)


def _paired(
    images: dict[str, Path], image_folder: Path, masks: dict[str, Path], mask_folder: Path
) -> tuple[Still, ...]:
    image_suffix, mask_suffix = _suffix(images.values(), ".jpg"), _suffix(masks.values(), ".png")
    stems = sorted(images.keys() | masks.keys(), key=lambda stem: natural_key(Path(stem)))
    return tuple(
        Still(
            stem,
            images.get(stem, image_folder / f"{stem}{image_suffix}"),
            masks.get(stem, mask_folder / f"{stem}{mask_suffix}"),
        )
        for stem in stems
    )


def _suffix(files: Iterable[Path], default: str) -> str:
    """The most frequent suffix."""
    counts = Counter(path.suffix for path in files)
    return counts.most_common(1)[0][0] if counts else default


def _by_number(frames: Iterable[str]) -> dict[int, str]:
    """The last number in a frame's name -> the name, for the numbers that only one frame has."""
    numbered = [(int(numbers[-1]), stem) for stem in frames if (numbers := re.findall(r"\d+", stem))]
    counts = Counter(number for number, _ in numbered)
    return {number: stem for number, stem in numbered if counts[number] == 1}


def _frame_of(mask: str, frames: dict[str, Path], numbers: dict[int, str]) -> str:
    if mask in frames:
        return mask
    bare = re.sub(r"[_-]gt$", "", mask, flags=re.IGNORECASE)
    found = re.findall(r"\d+", bare)
    return bare if bare in frames or not found else numbers.get(int(found[-1]), bare)


def _missing_masks(annotated: Sequence[bool]) -> list[bool]:
    """For each frame, whether a mask is missing there from the video's pattern of annotated frames.

    The pattern is every n-th frame, where n is the most frequent distance between annotated frames. It is accepted if
    all masks fit it and more than half of its frames have one. With n = 1 it covers the whole video, otherwise the
    frames from the first mask to the last.
    """
    missing = [False] * len(annotated)
    at = [index for index, has in enumerate(annotated) if has]
    if len(at) < 2:
        return missing
    step = Counter(second - first for first, second in pairwise(at)).most_common(1)[0][0]
    pattern = range(len(annotated)) if step == 1 else range(at[0], at[-1] + 1, step)
    if all(index in pattern for index in at) and 2 * len(at) > len(pattern):
        for index in pattern:
            missing[index] = not annotated[index]
    return missing
