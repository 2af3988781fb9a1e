"""An animated picture (WebP, APNG, AVIF) as the frames of a video. FFmpeg reads GIFs, but not all of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import InputError

from .frame import Frame

_HEAD = 4096  # bytes at the beginning of a file, enough to see whether it is animated


class AnimatedPicture:
    """Frames named by number from 0, with five digits. All are decoded together, so memory grows with their number.

    Alpha is dropped. fps: the mean frame rate. Raises InputError if the file does not decode.
    """

    def __init__(self, path: Path):
        self.path = path
        self.files = [path]
        self.remark = None
        self._images, self._seconds = self._decoded()
        self.count = len(self._images)
        self.fps = (self.count - 1) / self._seconds[-1] if self._seconds[-1] > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        for index, (image, seconds) in enumerate(zip(self._images, self._seconds)):
            yield Frame(f"{index:05d}", np.ascontiguousarray(image[:, :, :3]), seconds)

    def _decoded(self) -> tuple[list[np.ndarray], list[float]]:
        """The frames, uint8 (H, W, 3 or 4), and when each is shown, in seconds."""
        data = self.path.read_bytes()
        # OpenCV reads the first frames of a truncated file without reporting anything.
        whole = b"IEND" in data if data.startswith(b"\x89PNG") else _riff_size(data) <= len(data)
        if not whole:
            raise InputError(f"{self.path}: this animation is truncated")
        try:
            found, animation = cv2.imdecodeanimation(np.frombuffer(data, np.uint8))
        except AttributeError as error:
            raise InputError(
                f"{self.path}: animated pictures need OpenCV 4.11 or newer, this is {cv2.__version__}"
            ) from error
        except cv2.error:
            found = False
        if not found or not animation.frames:
            raise InputError(f"{self.path}: this animation does not decode")
        durations = np.asarray(animation.durations, float).ravel() / 1000
        return list(animation.frames), [0.0, *np.cumsum(durations).tolist()][: len(animation.frames)]


def _riff_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[4:8], "little") if data.startswith(b"RIFF") else 0


def is_animated(path: Path) -> bool:
    """Whether a file declares itself an animated picture. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head.partition(b"IDAT")[0]
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)  # The flag of an animation.
    return head[4:12] == b"ftypavis"
