"""A video file as frames, through OpenCV, and what the file says about its own length: OpenCV misses a cut-off end."""

from __future__ import annotations

import math
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pdb_saliency.errors import InputError

from .frame import Frame
from .isolated import DecodingProcess

# FFmpeg "plays" text files as a terminal's output, which nobody wants here.
_TEXT_SUFFIXES = frozenset(".txt .asc .ans .nfo .diz .ice .vt".split())

# The first bytes of containers.
_ISO_MEDIA = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


class VideoFile:
    """Frames of a video, named by number from 0, with five digits or as many as the declared count needs.

    count: what the container declares, perhaps an estimate; None if it declares nothing. fps: the mean frame rate.
    Each iteration decodes the file again from its start, in a separate process. Rotation metadata is applied; grey,
    10-bit and other pixels become 8-bit BGR, alpha is dropped. Frame.seconds are the time stamps, as long as they
    increase.

    OpenCV ends a damaged video as silently as a complete one. If a file stops early, iteration raises InputError after
    the last frame that decodes. A smaller difference from the declared count only sets `remark`: from one frame in mp4
    and mov, whose count is exact, from two in other containers.
    """

    def __init__(self, path: Path):
        self.path = path
        self.files = [path]
        self.remark = None
        with open(path, "rb") as file:  # OpenCV does not distinguish "no permission" from "no video".
            if not file.read(1):
                raise InputError(f"{path}: the file is empty")
        self._opened: DecodingProcess | None = self._open()  # For the first iteration.
        self._closing = weakref.finalize(self, self._opened.close)
        count, fps = self._opened.count, self._opened.fps
        self.count = round(count) if 0 < count < 1e9 else None
        self.fps = fps if 0 < fps < math.inf else None

    def __iter__(self) -> Iterator[Frame]:
        digits = max(5, len(str((self.count or 1) - 1)))
        process, self._opened = self._opened or self._open(), None
        read, last, timed = 0, 0.0, True
        try:
            while (decoded := process.read()) is not None:
                image, seconds = decoded
                timed = timed and (read == 0 or seconds > last)
                last = seconds
                yield Frame(f"{read:0{digits}d}", image, seconds if timed else None)
                read += 1
        finally:
            process.close()
        self._judge_end(read, last)

    def _open(self) -> DecodingProcess:
        try:
            path = opencv_path(self.path)
        except ValueError as error:
            raise InputError(str(error)) from error
        why = "the file is truncated" if missing_bytes(self.path) else "not a video, or damaged"
        unreadable = f"{self.path}: OpenCV cannot open it as a video ({why})"
        if self.path.suffix.lower() in _TEXT_SUFFIXES:
            raise InputError(unreadable)
        return DecodingProcess(self.path, path, unreadable)

    def _judge_end(self, read: int, seconds: float) -> None:
        """Distinguish a video that stops early from one whose declared count is merely inexact.

        mp4, mov and mkv say how long the file must be; the count of mp4 and mov also includes frames that an edit list
        hides. In other containers the count may be the duration times a guessed frame rate, and the duration that of a
        longer sound track: something is missing only if the last time stamp falls short too.
        """
        if read == 0:
            raise InputError(f"{self.path}: no frame of this video decodes")
        declared = self.count or read
        missing = missing_bytes(self.path)
        falls_short = read < declared - 1 and seconds * (self.fps or 0) < declared - 2.5
        if missing or missing is None and falls_short:
            of = f" of {declared}" if declared > read else ""
            raise InputError(f"{self.path}: the video is truncated or damaged, {read}{of} frames decode")
        if read < declared and (falls_short or is_iso_media(self.path)):
            self.remark = f"{self.path}: the container declares {declared} frames, {read} were decoded"


def opencv_path(path: Path) -> str:
    """The path as OpenCV's video readers and writers need it. Raises ValueError if it is not valid UTF-8.

    OpenCV 5.0 crashes on such a path. It is absolute, because FFmpeg would take "take:1.mp4" for a protocol.
    """
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!a}: the path of a video must be valid UTF-8") from error
    return text


# What a container says about its length


def is_iso_media(path: Path) -> bool:
    """Whether this is an mp4 or mov file; the number of frames that these declare is exact."""
    with open(path, "rb") as file:
        return file.read(8)[4:] in _ISO_MEDIA


def missing_bytes(path: Path) -> int | None:
    """How many bytes an mp4, mov, mkv or webm file lacks at its end; None if it does not say how long it is."""
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


def _end_of_boxes(file: BinaryIO, size: int) -> int:
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
        if length < 8:  # 0: this box extends to the end of the file. Else this is no box: some files have a tail.
            return size
        position += length
    return position


def _end_of_segment(file: BinaryIO) -> int | None:
    """Where the segment of a Matroska file ends; None if its size is unknown, as in a live recording."""
    file.seek(len(_EBML))
    length = _ebml_size(file)
    if length is None:
        return None
    file.seek(length, 1)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return None
    length = _ebml_size(file)
    return None if length is None else file.tell() + length


def _ebml_size(file: BinaryIO) -> int | None:
    """The size of the next element, as EBML writes it; None if it is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()  # The number of leading zeros says how many bytes follow.
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + file.read(extra), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
