"""Opening what the user names as input: a folder of pictures, a glob, or a video file."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pdb_saliency.errors import InputError

from .animation import AnimatedPicture, is_animated
from .frame import Source
from .pictures import IMAGE_SUFFIXES, PictureFiles
from .reader import VideoFile


def open_source(text: str) -> Source:
    """The frames that `text` names: a folder of pictures, a picture, a video file, or a glob that matches pictures.

    Pictures come in natural order of their paths (2.jpg before 10.jpg), which is the alphabetical order if numbers are
    padded with zeros. Hidden files and files that are not pictures are ignored. An animated picture is a video; but in
    a folder it counts as one picture, its first frame.
    Raises InputError: nothing there, no permission, no pictures, not a video, two frames with the same name.
    """
    path = Path(text)
    if text == "-":
        raise InputError("-: standard input is not read: name a file or a folder")
    if path.parts[:2] in (("/", "dev"), ("/", "proc")):
        path = Path(os.path.realpath(path))  # In the decoder's process /dev/stdin is another file.
    try:
        if not os.path.lexists(path) and glob.has_magic(text):
            return PictureFiles(_pictures(map(Path, _glob(text)), f"{text}: the glob matches"))
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return PictureFiles(_pictures(path.iterdir(), f"{path}: the folder holds"))
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: neither a file nor a folder")
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            return VideoFile(path)
        return AnimatedPicture(path) if is_animated(path) else PictureFiles([path])
    except OSError as error:
        raise InputError(f"{text}: cannot be read ({error.strerror})") from error


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """A key that sorts numbers by value: frame2 before frame10. The plain text decides between frame1 and frame01."""
    text = str(path)
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))], text


def _glob(pattern: str) -> Iterable[str]:
    """As glob.iglob(pattern, recursive=True), but `**` enters each folder only once, so that loops of links end."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return glob.iglob(pattern)
    at = parts.index("**")
    rest = [part for part, previous in zip(parts[at + 1 :], parts[at:]) if (part, previous) != ("**", "**")] or ["*"]
    roots = glob.iglob(os.path.join(*parts[:at])) if at else [""]
    found = (
        path for root in roots for folder in _folders(root) for path in _glob(os.path.join(glob.escape(folder), *rest))
    )
    return dict.fromkeys(found)  # Two `**` find some paths twice.


def _folders(root: str) -> Iterator[str]:
    """The folder and all folders below it, without those that are hidden or may not be read.

    Links are followed last, so that a folder is found by its own name and not by that of a link to it.
    """
    seen = set()
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        try:
            names = [name for name in sorted(os.listdir(folder or ".")) if not name.startswith(".")]
        except OSError:
            continue
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isdir(path):
                (links if os.path.islink(path) else folders).append(path)


def _pictures(paths: Iterable[Path], what: str) -> list[Path]:
    paths = list(paths)
    found = sorted(filter(_is_picture, paths), key=natural_key)
    if not found:
        raise InputError(
            f"{what} no pictures (.jpg, .png, ...), only {len(paths)} other entries" if paths else f"{what} nothing"
        )
    return found


def _is_picture(path: Path) -> bool:
    """By its name, unless it is, or links to, a folder, a pipe or a device.

    A link to nothing counts: an error is better than a frame that is silently left out.
    """
    named = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    return named and (os.path.isfile(path) or os.path.islink(path) and not os.path.exists(path))
