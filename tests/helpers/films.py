"""Small videos and pictures for the tests of the video tool."""

import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import InputError


def grey_frame(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


def noisy(height=96, width=128):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def write_video(path, frames, fps=24.0, codec="mp4v"):
    height, width = frames[0].shape[:2]
    encoder = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    assert encoder.isOpened()
    for frame in frames:
        encoder.write(frame)
    encoder.release()
    return path


def write_frames(folder, frames, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{index:05d}{suffix}"), frame)
    return folder


def index_first(mp4):
    """The same mp4 with its index (moov) before the pictures, as for the web: it opens even when truncated."""
    boxes, position = {}, 0
    while position < len(mp4):
        length, kind = struct.unpack_from(">I4s", mp4, position)
        boxes[kind] = bytearray(mp4[position : position + length])
        position += length
    moov = boxes[b"moov"]
    offsets = moov.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", moov, offsets)
    for at in range(offsets + 4, offsets + 4 + 4 * count, 4):
        struct.pack_into(">I", moov, at, struct.unpack_from(">I", moov, at)[0] + len(moov))
    return bytes(boxes[b"ftyp"] + moov + boxes[b"free"] + boxes[b"mdat"])


@contextmanager
def as_nobody():
    """A folder that every user may enter, and a function that drops root's privileges, which ignore permissions."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        user = os.geteuid()
        try:
            yield Path(folder), lambda: os.seteuid(65534) if user == 0 else None
        finally:
            os.seteuid(user)
            for path in Path(folder).rglob("*"):
                path.chmod(0o755)


def the_line(captured):
    """The one line on stderr besides the note about the untrained model."""
    lines = [line for line in captured.err.splitlines() if "note: nothing here is trained" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def read_maps(folder, height=48, width=64):
    """The mean of each map in the folder; every file there must be a whole map."""
    means = {}
    for path in sorted(folder.iterdir()):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture is not None and picture.shape == (height, width) and picture.dtype == np.uint8, path
        means[path.name] = picture.mean()
    return means


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    fps, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    return frames, fps


def read_all(source):
    """(the frames, the error after them or None)."""
    frames = []
    try:
        frames.extend(source)
    except InputError as error:
        return frames, str(error)
    return frames, None
