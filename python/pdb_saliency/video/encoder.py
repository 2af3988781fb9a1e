"""The program ffmpeg, where it is at hand: for codecs that OpenCV lacks, and for sound."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.runtime.isolation import clean_environment, find_program

_MISSING = "install ffmpeg, or pip install 'pdb-ext[ffmpeg]'"
_PATIENCE = 600  # Seconds for copying a sound track.
_MARK = rb"hdlr.{8}soun|A_[A-Z]{3}|auds|OpusHead|vorbis"  # Of sound, in mp4 and mov, mkv and webm, avi, ogg.
_LOOKED_AT = 1 << 20  # Bytes at either end.
# ffmpeg ends with exit code 0 where a full disk cuts off what it writes last.
_CUT_OFF = re.compile("No space left|too large|Error writing|Error closing")

# How the pixels arrive, and options of the encoder. H.264 plays in browsers, VP9 and ProRes 4444 keep alpha. The colour
# matrix is BT.709, and the file says so: without a word players take BT.601 for small pictures and BT.709 for large ones.
_BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]


def _pixels(format: str) -> list[str]:
    return ["-vf", f"scale=out_color_matrix=bt709:out_range=tv,format={format}", *_BT709]


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
    """The path of ffmpeg: the one on the PATH, else that of the package imageio-ffmpeg; None without either."""
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
    """Whether an ffmpeg is at hand that was built with the codec, one of `CODECS`."""
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
    """A video file encoded by ffmpeg, under a temporary name until `finish`.

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
        """End the file, still under its temporary name, and return that: see `put_in_place`."""
        try:
            self._process.stdin.close()
        except OSError as error:
            raise self._failure() from error
        if self._process.wait() != 0 or _CUT_OFF.search(self._said()):
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
        height, width = image.shape[:2]
        command = [find_ffmpeg(), "-v", "error", "-nostdin", "-y", "-f", "rawvideo", "-pix_fmt", pixels]
        command += [
            "-s",
            f"{width}x{height}",
            "-framerate",
            f"{self._fps:.6f}",
            "-i",
            "pipe:0",
            *options,
            _plain(self._temporary),
        ]
        self._errors = tempfile.TemporaryFile()
        # A session of its own, so that Ctrl-C does not end it before us.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True,
            env=clean_environment(),
        )  # fmt: skip

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _failure(self) -> OutputError:
        self._process.kill()
        self._process.wait()
        lines = self._said().split("\n")
        said = next(filter(_CUT_OFF.search, lines), next(filter(None, lines), ""))
        detail = f"ffmpeg: {said.strip()[:150]}" if said else "a full disk?"
        return OutputError(f"{self._path}: the video cannot be written completely ({detail})")


def has_sound(path: Path) -> bool:
    """Whether a video file seems to have a sound track: looks for the marks of one, without decoding."""
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
    """Give `video` (replaced when done) the sound of `source`, at most `seconds` of it; copied where the container takes it.

    Returns False, with the video as it was, where that does not succeed.
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
    """For ffmpeg: it would take "take:1.mp4" for a protocol, and "-a.mp4" for an option."""
    return f"file:{path.absolute()}"


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds,
            start_new_session=True, env=clean_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
