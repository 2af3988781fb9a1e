"""Writing videos: with the program ffmpeg, if it is installed, or with OpenCV, which has few codecs and no sound."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.runtime.isolation import clean_environment, find_program

from .reader import opencv_path

DEFAULT_FPS = 24.0  # for frames without a frame rate; DAVIS has 24

_MISSING = "install ffmpeg, or pip install 'pdb-ext[ffmpeg]'"
_PATIENCE = 600  # seconds for copying a sound track
_MARK = rb"hdlr.{8}soun|A_[A-Z]{3}|auds|OpusHead|vorbis"  # of sound, in mp4 and mov, mkv and webm, avi, ogg
_LOOKED_AT = 1 << 20  # bytes at either end of a file
# ffmpeg ends with exit code 0 if a full disk cuts off what it writes last.
_CUT_OFF = re.compile("No space left|too large|Error writing|Error closing")

_MAX_TIME_BASE = 65535  # of MPEG-4
_MAX_SIDE = 8190  # MPEG-4 has 13 bits for each side.


# By ffmpeg


def _pixels(format: str) -> list[str]:
    """The colour matrix is BT.709, and the file says so: else players assume BT.601 for small pictures."""
    matrix = f"scale=out_color_matrix=bt709:out_range=tv,format={format}"
    colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    return ["-vf", matrix, *colours]


# The pixel format that ffmpeg receives, and options of the encoder. H.264 plays in browsers; VP9 and ProRes 4444 have
# alpha.
CODECS = {
    "h264": (
        "bgr24",
        ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", *_pixels("yuv420p"), "-movflags", "+faststart"],
    ),
    "vp9": (
        "bgra",
        ["-c:v", "libvpx-vp9", "-crf", "30", "-b:v", "0", "-row-mt", "1", "-cpu-used", "5", *_pixels("yuva420p")],
    ),
    "prores": ("bgra", ["-c:v", "prores_ks", "-profile:v", "4444", "-vendor", "apl0", *_pixels("yuva444p10le")]),
}


@functools.cache
def find_ffmpeg() -> str | None:
    """The path of ffmpeg: the one on the PATH, else that of the package imageio-ffmpeg; None if there is neither."""
    found = find_program("ffmpeg")
    if found is None:
        try:
            import imageio_ffmpeg

            found = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            return None
    return found


@functools.cache
def can_encode(codec: str) -> bool:
    """Whether there is an ffmpeg that was built with the codec, one of `CODECS`."""
    program = find_ffmpeg()
    if program is None:
        return False
    listing = _run([program, "-v", "error", "-encoders"], 60)
    return re.search(rf"^ V\S+ {CODECS[codec][1][1]} ", listing.stdout, re.MULTILINE) is not None


def require(codec: str, what: str) -> None:
    """Raises SaliencyError, which begins with `what`, unless ffmpeg can encode `codec`."""
    if find_ffmpeg() is None:
        raise SaliencyError(f"{what} needs ffmpeg: {_MISSING}")
    if not can_encode(codec):
        raise SaliencyError(f"{what} needs an ffmpeg with {CODECS[codec][1][1]}, and {find_ffmpeg()} has none")


class FfmpegWriter:
    """A video file encoded by ffmpeg, under a temporary name until the caller renames it.

    codec: one of `CODECS`. The first frame sets the size; all others must have it.
    write: uint8 (H, W, 3) BGR, or (H, W, 4) BGRA for the codecs with alpha. Raises OutputError.
    """

    def __init__(self, path: Path, fps: float, codec: str):
        self._path = path
        self._temporary = path.with_name(f".{path.stem[:50]}.part{path.suffix}")
        self._fps = fps
        self._codec = codec
        self._process: subprocess.Popen | None = None
        self._errors = None

    def write(self, image: np.ndarray) -> None:
        if self._process is None:
            self._start(image)
        try:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        except OSError as error:  # A broken pipe: ffmpeg has given up.
            raise self._failure() from error

    def finish(self) -> Path:
        """Complete the file, and return its temporary name."""
        try:
            self._process.stdin.close()
        except OSError as error:
            raise self._failure() from error
        if self._process.wait() != 0 or _CUT_OFF.search(self._output()):
            raise self._failure()
        return self._temporary

    def discard(self) -> None:
        """Remove what has not been finished."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        try:
            self._process.stdin.close()
        except OSError:
            pass
        self._errors.close()
        self._temporary.unlink(missing_ok=True)

    def _start(self, image: np.ndarray) -> None:
        pixels, options = CODECS[self._codec]
        size = f"{image.shape[1]}x{image.shape[0]}"
        command = [find_ffmpeg(), "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", pixels]
        command += ["-s", size, "-framerate", f"{self._fps:.6f}", "-i", "pipe:0", *options, _plain(self._temporary)]
        self._errors = tempfile.TemporaryFile()
        # In its own session, so that Ctrl-C does not end it before us.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True,
            env=clean_environment(),
        )  # fmt: skip

    def _output(self) -> str:
        """What ffmpeg has written to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _failure(self) -> OutputError:
        self._process.kill()
        self._process.wait()
        lines = self._output().split("\n")
        line = next(filter(_CUT_OFF.search, lines), next(filter(None, lines), ""))
        detail = f"ffmpeg: {line.strip()[:150]}" if line else "a full disk?"
        return OutputError(f"{self._path}: the video cannot be written completely ({detail})")


def has_sound(path: Path) -> bool:
    """Whether a video file seems to have a sound track: it is searched for the marks of one, not decoded."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LOOKED_AT)
            if file.seek(0, os.SEEK_END) > _LOOKED_AT:
                file.seek(-_LOOKED_AT, os.SEEK_END)
                data += file.read()
    except OSError:
        return False
    return re.search(_MARK, data, re.DOTALL) is not None


def add_sound(video: Path, source: Path, seconds: float) -> bool:
    """Give `video` the sound of `source`, at most `seconds` of it; copied if the container takes it, else encoded.

    Returns False, with the video unchanged, if that does not succeed.
    """
    joined = video.with_name(f"{video.stem}.sound{video.suffix}")
    encoder = "libopus" if video.suffix == ".webm" else "aac"
    try:
        for codec in ("copy", encoder):
            command = [find_ffmpeg(), "-v", "error", "-nostdin", "-y", "-i", _plain(video), "-i", _plain(source)]
            command += ["-map", "0:v", "-map", "1:a:0", "-c:v", "copy", "-c:a", codec, "-t", f"{seconds:.3f}"]
            command += ["-movflags", "+faststart"] if video.suffix == ".mp4" else []
            done = _run([*command, _plain(joined)], _PATIENCE)
            if done.returncode == 0 and not _CUT_OFF.search(done.stderr):
                os.replace(joined, video)
                return True
        return False
    finally:
        joined.unlink(missing_ok=True)


def _plain(path: Path) -> str:
    """The path for ffmpeg, which would take "take:1.mp4" for a protocol and "-a.mp4" for an option."""
    return f"file:{path.absolute()}"


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds,
            start_new_session=True, env=clean_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


# By OpenCV


class Mp4Writer:
    """An mp4 (MPEG-4 Part 2, the one codec that every OpenCV wheel can write) under a temporary name until `finish`.

    The first frame sets the size. It is made even by repeating the last row or column, as the codec needs it, and
    shrunk if a side is longer than 8190 pixels. Later frames of another size are scaled to fit, with black bars.
    fps: None for frames without a rate. Raises OutputError.
    """

    def __init__(self, path: Path, fps: float | None):
        self._path = path
        self._temporary = path.with_name(f".{path.stem[:50]}.part{path.suffix}")  # The suffix decides the container.
        try:
            self._opencv_path = opencv_path(self._temporary)
        except ValueError as error:
            raise OutputError(str(error)) from error
        self._fps = _encodable_rate(fps or 0)
        self._size: tuple[int, int] | None = None
        self._encoder: cv2.VideoWriter | None = None
        self._frames = 0

    def write(self, image: np.ndarray) -> None:
        if self._encoder is None:
            shrink = min(1, _MAX_SIDE / max(image.shape))
            self._size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
            even = tuple(side + side % 2 for side in self._size)
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            self._encoder = cv2.VideoWriter(self._opencv_path, codec, self._fps, even)
            if not self._encoder.isOpened():
                raise OutputError(f"{self._path}: OpenCV cannot begin a video of {even[0]}x{even[1]} (a full disk?)")
        width, height = self._size
        image = fit(image, width, height)
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._encoder.write(image) is False:  # OpenCV 5 reports a failure, OpenCV 4 always returns None.
            raise self._failure()
        self._frames += 1

    def finish(self) -> None:
        self._encoder.release()
        # The index is written last, so a video that opens and has all frames was written completely.
        check = cv2.VideoCapture(self._opencv_path)
        written = check.get(cv2.CAP_PROP_FRAME_COUNT) if check.isOpened() else 0
        check.release()
        if written != self._frames:
            raise self._failure()
        try:
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def discard(self) -> None:
        """Remove what has not been finished."""
        if self._encoder is not None:
            self._encoder.release()
            self._temporary.unlink(missing_ok=True)

    def _failure(self) -> OutputError:
        return OutputError(f"{self._path}: the video cannot be written completely (a full disk?)")


def _encodable_rate(fps: float) -> float:
    """The nearest rate with as many decimals, at most three, as MPEG-4 can count in; 24 if there is none."""
    for decimals in (3, 2, 1, 0):
        rate = round(fps, decimals)
        if 0.01 <= rate and rate * 10**decimals < _MAX_TIME_BASE + 0.5:  # OpenCV makes the same fraction of it.
            return rate
    return DEFAULT_FPS


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale to fit into width x height, keeping the aspect ratio, centred on black (transparent, if there is alpha)."""
    if image.shape[:2] == (height, width):
        return image
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.zeros((height, width, image.shape[2]), np.uint8)
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return canvas
