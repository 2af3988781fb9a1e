"""From the INPUT of the command line to frames: a folder of pictures, a glob, or a video file."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError
from .frame import Source
from .pictures import IMAGE_SUFFIXES, PictureFiles
from .video import VideoFile


def open_source(text: str) -> Source:
    """The frames that `text` names: a folder of pictures, a picture, a video file, or else a glob that matches pictures.

    Pictures come in natural order of their paths (2.jpg before 10.jpg), which for zero-padded numbers is the
    alphabetical one. Hidden files and files that are not pictures are passed over.
    Raises InputError: nothing there, no permission, no pictures, not a video, two frames of one name.
    """
    path = Path(text)
    try:
        if not os.path.lexists(path) and glob.has_magic(text):
            return PictureFiles(_pictures(map(Path, glob.iglob(text, recursive=True)), f"{text}: the glob matches"))
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return PictureFiles(_pictures(path.iterdir(), f"{path}: the folder holds"))
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: neither a file nor a folder")
        return PictureFiles([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
    except OSError as error:
        raise InputError(f"{text}: cannot be read ({error.strerror})") from error


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sorts numbers by value: frame2 before frame10. The plain text decides between frame1 and frame01."""
    text = str(path)
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", text))], text


def _pictures(paths: Iterable[Path], what: str) -> list[Path]:
    paths = list(paths)
    found = sorted(filter(_is_picture, paths), key=natural_key)
    if not found:
        raise InputError(f"{what} no pictures (.jpg, .png, ...), only {len(paths)} other entries" if paths else f"{what} nothing")
    return found


def _is_picture(path: Path) -> bool:
    """By its name. A link to nothing counts: better a frame that cannot be read than one passed over."""
    named = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or path.is_symlink())
