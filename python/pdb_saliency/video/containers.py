"""What a video file says of its own length, so that one that was cut off can be told from a whole one."""

from __future__ import annotations

import struct
from pathlib import Path

_ISO_MEDIA = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def is_iso_media(path: Path) -> bool:
    """Whether it is an mp4 or mov file, whose declared count of frames is exact."""
    with open(path, "rb") as file:
        return file.read(8)[4:] in _ISO_MEDIA


def missing_bytes(path: Path) -> int | None:
    """Bytes that an mp4, mov, mkv or webm file promises beyond its end; None where nothing is promised."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(16)
        if start[4:8] in _ISO_MEDIA:
            end = _end_of_boxes(file, size)
        elif start.startswith(_EBML):
            end = _end_of_segment(file)
        else:
            end = None
    return None if end is None else max(0, end - size)


def _end_of_boxes(file, size: int) -> int:
    """Where the last top-level box of an ISO media file ends."""
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            break
        (length,) = struct.unpack_from(">I", header)
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack_from(">Q", header, 8)
        if length < 8:  # 0: this box reaches to the end of the file. Others: no box, as after the end of some files.
            return size
        position += length
    return position


def _end_of_segment(file) -> int | None:
    """Where the segment of a Matroska file ends; None for one of unknown size, as of a live recording."""
    file.seek(len(_EBML))
    length = _ebml_size(file)
    if length is None:
        return None
    file.seek(length, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return None
    length = _ebml_size(file)
    return None if length is None else file.tell() + length


def _ebml_size(file) -> int | None:
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()  # Leading zeros: how many bytes follow.
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + file.read(extra), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
