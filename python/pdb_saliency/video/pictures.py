"""Reading and writing pictures; picture files as frames."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import InputError, OutputError
from pdb_saliency.runtime.files import replacing

from .frame import Frame

# What cv2.imdecode turns into 8-bit colour. Float formats (.exr, .hdr, .pfm) have no 0-255 range and are left out.
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .ras .sr .tif .tiff .webp".split()
)


class PictureFiles:
    """Pictures as frames, named after their files without the suffix. paths: in order of time.

    Raises InputError if two of them have the same name.
    """

    def __init__(self, paths: Sequence[Path]):
        self.files = paths
        self.count = len(paths)
        self.fps = None
        self.remark = None
        first: dict[str, Path] = {}
        for path in paths:
            if first.setdefault(path.stem, path) != path:
                raise InputError(f"the results of {first[path.stem]} and {path} would have the same name, {path.stem}")

    def __iter__(self) -> Iterator[Frame]:
        for path in self.files:
            yield Frame(path.stem, read_picture(path))


def read_picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3), BGR. Grey becomes three equal channels, 16 bits become 8 bits.

    Alpha is dropped, EXIF rotation is applied. Raises InputError if the file cannot be read or does not decode.
    """
    return _decode(_bytes_of(path), path, cv2.IMREAD_COLOR)


def read_levels(path: Path) -> np.ndarray:
    """As `read_picture`, but a grey PNG of 8 or 16 bits keeps its levels, uint8 or uint16 (H, W).

    That takes a third of the time of three channels.
    """
    data = _bytes_of(path)
    # After the signature and the name of the first chunk: width, height, bits, kind of colour (0: grey).
    grey = data.startswith(b"\x89PNG") and data[24:26] in (b"\x08\x00", b"\x10\x00")
    return _decode(data, path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH if grey else cv2.IMREAD_COLOR)


def _bytes_of(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # Reading a pipe would wait.
            raise InputError(f"{path}: expected a picture file, got something that is not a file")
        return path.read_bytes()  # Not cv2.imread, which does not distinguish "no permission" from "no picture".
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(data: bytes, path: Path, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if _is_complete(data) else None
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{path}: this frame does not decode ({len(data)} bytes; empty, truncated, or not a picture)")
    return image


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a PNG. image: uint8 (H, W), (H, W, 3) BGR or (H, W, 4) BGRA. Raises OutputError.

    The picture is encoded in memory, because cv2.imwrite ignores a full disk. It survives a killed process, but perhaps
    not a power cut: nothing is forced to the disk.
    """
    encoded = cv2.imencode(".png", image)[1]
    try:
        # The temporary name is cut, because a name has at most 255 bytes.
        with replacing(path, path.with_name(f".{path.name[:50]}.part")) as temporary:
            with open(temporary, "wb") as file:
                file.write(encoded)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def _is_complete(data: bytes) -> bool:
    """False if a JPEG or PNG file is truncated. OpenCV 4 decodes half a JPEG without an error, the rest of it black."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    if not data.startswith(b"\xff\xd8"):
        return len(data) > 0
    # The end-of-image marker must follow the pixels; an earlier one belongs to a thumbnail inside a segment.
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.find(b"\xff\xd9", position) >= 0
