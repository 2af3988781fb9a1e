"""A video file as frames, through OpenCV."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from pathlib import Path

from pdb_saliency.errors import InputError

from .containers import is_iso_media, missing_bytes
from .frame import Frame
from .isolated import DecodingProcess

# FFmpeg "plays" text files as a terminal's output; nobody means that.
_TEXT_SUFFIXES = frozenset(".txt .asc .ans .nfo .diz .ice .vt".split())


class VideoFile:
    """Frames of a video, named by number from 0, five digits or as many as the declared count needs.

    count: what the container declares, None when it declares nothing; it may be an estimate. fps: the mean rate.
    Each iteration decodes the file once more from its start, in a process of its own. Rotation metadata is applied; grey,
    10-bit and other pixels become 8-bit BGR, alpha is dropped. Frame.seconds are the time stamps, as long as they rise.

    OpenCV ends a damaged video as silently as a complete one. After the last frame that decodes, InputError tells of a
    file that stops early; a smaller difference from the declared count only sets `remark`: from one frame in mp4 and mov,
    whose count is exact, from two elsewhere.
    """

    def __init__(self, path: Path):
        self.path = path
        self.files = [path]
        self.remark = None
        with open(path, "rb") as file:  # OpenCV cannot tell "no permission" from "no video".
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
        """Tell a video that stops early from one whose declared count is merely inexact.

        mp4, mov and mkv say how long the file must be; the count of mp4 and mov also includes frames that an edit list
        hides. Elsewhere the count may be duration times a guessed frame rate, and the duration that of a longer sound
        track: only when the last time stamp also falls short is something missing.
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
    """The path as OpenCV's video readers and writers take it. Raises ValueError for one that is not valid UTF-8.

    OpenCV 5.0 dies of such a path. Absolute, because FFmpeg takes "take:1.mp4" for a protocol.
    """
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!a}: the path of a video must be valid UTF-8") from error
    return text
