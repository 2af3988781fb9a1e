"""The masks that predictions are scored against: those of a data set, or any folder of masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.data.sets.layouts import pictures_in, subfolders
from pdb_saliency.errors import InputError

STILLS = ""  # The key of pictures that belong to no sequence.


@dataclass(frozen=True)
class Truth:
    """name: of the data set. masks: sequence -> frame name -> the files whose union is the mask, frames in order of time.
    Pictures that belong to no sequence are under the sequence "".

    unannotated: (sequence, frame) of frames without a mask, which a method may well have predicted.
    """

    name: str
    masks: dict[str, dict[str, tuple[Path, ...]]]
    unannotated: frozenset[tuple[str, str]] = frozenset()


def open_truth(text: str, data_root: Path | None = None) -> Truth:
    """What GT of the command line names: [NAME=]PLACE.

    PLACE is a folder of masks (stills), a folder of folders of masks (sequences), a data set's folder, or a data set that
    `data.catalog` knows, below `data_root`. NAME is how the results call it.
    Raises InputError: nothing there, or no masks in it.
    """
    name, separator, place = text.partition("=")
    if not separator:
        name, place = "", text
    if not place:
        raise InputError(f"expected a folder of masks or a data set, got {text!r}")
    try:
        truth = truth_of(open_dataset(place, data_root))
    except InputError as error:
        if not Path(place).is_dir():
            raise
        truth = _folder_of_masks(Path(place))
        if not truth.masks:
            forms = "MASKS/NAME.png or MASKS/SEQUENCE/NAME.png"
            raise InputError(f"{place}: neither masks ({forms}) nor a data set") from error
    if not truth.masks:
        raise InputError(f"{place}: a data set without any mask")
    return replace(truth, name=name) if name else truth


def truth_of(dataset: Dataset) -> Truth:
    """The masks of a data set, frames named by their picture files, as their predictions are."""
    masks = {STILLS: {still.image.stem: (still.mask,) for still in dataset.stills}} if dataset.stills else {}
    unannotated = set()
    for video in dataset.videos:
        masks[video.name] = {frame.stem: paths for frame, paths in zip(video.frames, video.masks) if paths}
        unannotated |= {(video.name, frame.stem) for frame, paths in zip(video.frames, video.masks) if not paths}
    return Truth(dataset.name, {name: frames for name, frames in masks.items() if frames}, frozenset(unannotated))


def _folder_of_masks(folder: Path) -> Truth:
    children = subfolders(folder)
    if [path.name for path in children] == ["480p"]:  # Annotations/480p/SEQUENCE of DAVIS.
        children = subfolders(children[0])
    masks = {path.name: _masks_of(path) for path in children} | {STILLS: _masks_of(folder, objects=False)}
    return Truth(folder.resolve().name, {name: frames for name, frames in masks.items() if frames})


def _masks_of(folder: Path, objects: bool = True) -> dict[str, tuple[Path, ...]]:
    """Frame -> its masks: in the folder or, where there are none and `objects`, in folders 1, 2, ... (SegTrack-v2's objects).

    Raises InputError where an object has no mask of a frame that another one has.
    """
    alone = pictures_in(folder)
    if alone or not objects:
        return {frame: (path,) for frame, path in alone.items()}
    places = {place: pictures_in(place) for place in subfolders(folder) if place.name.isdecimal()}
    frames = dict.fromkeys(frame for masks in places.values() for frame in masks)
    for place, masks in places.items():
        missing = [frame for frame in frames if frame not in masks]
        if missing:
            raise InputError(f"{place}: the mask of frame {missing[0]} is missing")
    return {frame: tuple(masks[frame] for masks in places.values()) for frame in frames}
