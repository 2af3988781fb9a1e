"""Decoding a video in a separate process, so that a damaged file cannot take the program down.

FFmpeg, inside OpenCV, reads files of any origin. If it crashes, loops forever or runs out of memory, that ends only
this process. It runs `serve`, below, and sends frames through a pipe, so that it decodes while the network computes.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from pdb_saliency.errors import InputError
from pdb_saliency.runtime.isolation import clean_environment, python_command

PATIENCE = 60.0  # seconds for one answer, on a machine that is not overloaded; 100 megapixels take about one
_COMMAND = "from pdb_saliency.video.isolated import serve; serve()"
_OPENED = struct.Struct("<cdd")  # b"o", count, fps
_FRAME = struct.Struct("<ciid")  # b"f", height, width, seconds
_END = b"."


class DecodingProcess:
    """Frames of one video file from its start, decoded in another process.

    count, fps: what OpenCV says about the file; 0 or any number if unknown.
    Raises InputError if the file does not open (with the message `unreadable`), if the decoder crashes, or if it does
    not answer within `PATIENCE` seconds.
    """

    def __init__(self, path: Path, opencv_path: str, unreadable: str):
        self._path = path
        self._timed_out = False
        self._waiting = False
        environment = clean_environment() | {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
        self._process = subprocess.Popen(
            [*command(), opencv_path],
            stdin=subprocess.PIPE,  # Never written to: it closes when this process ends.
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # for OpenCV's complaints
            env=environment,
            start_new_session=True,  # Ctrl-C must not reach it.
        )
        threading.Thread(target=self._watch, daemon=True, name="decoder watch").start()
        kind = self._receive(1)
        if kind != b"o":
            self.close()
            raise InputError(unreadable if kind in (b"x", b"e") else self._end_of_process("at its first bytes"))
        _, self.count, self.fps = _OPENED.unpack(kind + self._receive(_OPENED.size - 1))
        self._frames = 0

    def read(self) -> tuple[np.ndarray, float] | None:
        """The next frame, uint8 (H, W, 3) BGR, and its time in seconds from the start; None after the last one."""
        kind = self._receive(1)
        if kind == b"f":
            header = self._receive(_FRAME.size - 1)
            if len(header) == _FRAME.size - 1:
                _, height, width, seconds = _FRAME.unpack(kind + header)
                image = np.empty((height, width, 3), np.uint8)
                if self._fill(memoryview(image).cast("B")):
                    self._frames += 1
                    return image, seconds
        elif kind == _END:
            return None
        elif kind == b"e":
            raise InputError(f"{self._path}: decoding failed at frame {self._frames}")
        raise InputError(self._end_of_process(f"at frame {self._frames}"))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()

    def _receive(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer) if self._fill(memoryview(buffer)) else b""

    def _fill(self, view: memoryview) -> bool:
        self._waiting = True
        try:
            while view:
                got = self._process.stdout.readinto(view)
                if not got:
                    return False
                view = view[got:]
            return True
        finally:
            self._waiting = False

    def _watch(self) -> None:
        """Kill the process when one wait has lasted too long.

        Counts its own ticks, so that the time in which this program is stopped does not count. On an overloaded
        machine, where processes wait for processors, ticks count less.
        """
        tick, waited = PATIENCE / 60, 0.0
        while self._process.poll() is None:
            time.sleep(tick)
            waited = waited + tick * _share_of_a_processor() if self._waiting else 0.0
            if waited > PATIENCE:
                self._timed_out = True
                self._process.kill()
                return

    def _end_of_process(self, where: str) -> str:
        if self._timed_out:
            silent = f"the decoder did not answer for {PATIENCE:.0f} seconds or more"
            return f"{self._path}: {silent} {where}: the file is damaged"
        code = self._process.wait()
        return f"{self._path}: the decoder crashed {where} (exit code {code}): the file is damaged, or memory is short"


def _share_of_a_processor() -> float:
    """The share that a busy process had on average in the last minute, at least 0.1, because every wait must end."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows
        return 1.0
    return min(max((os.cpu_count() or 1) / max(load, 1.0), 0.1), 1.0)


def command() -> list[str]:
    """The command that starts the process, without its argument, the path of the video."""
    return python_command(_COMMAND)


def serve() -> None:
    """The process: opens the video named by the last argument and writes all its frames to standard output."""
    import cv2

    _be_first_to_die()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # What libraries print must not come between the frames.
    try:
        capture = cv2.VideoCapture(sys.argv[-1])
        # As a last resort OpenCV reads "clip01.bin" as a series of pictures.
        if not capture.isOpened() or capture.getBackendName() == "CV_IMAGES":
            _send(out, b"x")
            return
        _send(out, _OPENED.pack(b"o", capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)))
        while True:
            ok, image = capture.read()
            if not ok:
                break
            if image.ndim == 2 or image.shape[2] != 3:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_BGRA2BGR)
            height, width = image.shape[:2]
            _send(out, _FRAME.pack(b"f", height, width, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000))
            _send(out, memoryview(np.ascontiguousarray(image)).cast("B"))
        _send(out, _END)
    except cv2.error:
        _send(out, b"e")
    except BrokenPipeError:
        pass  # The reader is gone.


def _send(out, data) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def _be_first_to_die() -> None:
    """If memory runs out, Linux should kill this process, not the one with the results."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
