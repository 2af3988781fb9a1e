"""What the registry knows about a published data set, and the layouts that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pdb_saliency.data.sets.items import Still, Video
from pdb_saliency.data.sets.layouts import stills_in, subfolder, videos_in

Items = tuple[tuple[Still, ...], tuple[Video, ...]]
Open = Callable[[Path, str | None], Items]


@dataclass(frozen=True)
class KnownSet:
    """A data set in the layout in which its authors publish it.

    folders: names that its folder may have, as `layouts.plain` writes them.
    expected: the layout, in words for messages.
    open: stills and videos in a folder, of one split or of all (None); none if the folder does not have this layout.
        Raises InputError when a list of frames cannot be read or names files that are not there.
    splits: the published ones. aliases: other name of a split -> the split.
    mask_formats: suffix of mask files that no other set uses -> foreground(image, path), which returns the mask, uint8
        (H, W), 0 or 255. image: as `video.pictures.read_levels` returns it, with 8 bits.
    """

    folders: tuple[str, ...]
    expected: str
    open: Open
    splits: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    mask_formats: Mapping[str, Callable[[np.ndarray, Path], np.ndarray]] = field(default_factory=dict)


def still_folders(*layouts: tuple[str, str]) -> Open:
    """Opens a still set with its pictures in one folder and its masks in another.

    layouts: the two folders, in every form in which they are found; the first form that is there is used.
    """

    def open_stills(folder: Path, split: str | None) -> Items:
        for images, masks in layouts:
            places = subfolder(folder, images), subfolder(folder, masks)
            if all(places):
                return stills_in(*places), ()
        return (), ()

    return open_stills


def video_folders(frames: str, masks: str) -> Open:
    """Opens a video set with its frames in one folder and its masks in another, see `layouts.videos_in`."""

    def open_videos(folder: Path, split: str | None) -> Items:
        places = subfolder(folder, frames), subfolder(folder, masks)
        return (), (videos_in(*places) if all(places) else ())

    return open_videos
