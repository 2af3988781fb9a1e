"""Damaged videos: flipped bytes in real ones, and decoders that crash, hang or lie."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.films import grey_frame, noisy, read_maps, the_line, write_video
from helpers.paths import HELPERS
from pdb_saliency.errors import InputError
from pdb_saliency.video import isolated as decoding
from pdb_saliency.video.reader import VideoFile
from pdb_saliency.video.source import open_source

CASES = 60  # for each format
FORMATS = {".mp4": "libx264", ".webm": "libvpx", ".avi": "mjpeg", ".mkv": "mpeg4"}


def real_video(folder, suffix):
    frames = [np.roll(noisy(48, 64), 3 * i, 1) for i in range(20)]
    codec = FORMATS[suffix]
    if shutil.which("ffmpeg") is None:
        return write_video(
            folder / f"whole{suffix}", frames, codec={".webm": "VP80", ".avi": "MJPG"}.get(suffix, "mp4v")
        )
    plain = write_video(folder / "plain.avi", frames, codec="MJPG")
    sound = ["-f", "lavfi", "-i", "sine=d=1"]
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(plain), *sound, "-c:v", codec, str(folder / f"whole{suffix}")]
    subprocess.run(command, check=True)
    return folder / f"whole{suffix}"


def damaged(data, case):
    """Flipped bytes anywhere, in the first 2000 (where the headers are), or in the last ones; or a cut."""
    rng = np.random.default_rng(case)
    result = np.frombuffer(data, np.uint8).copy()
    first, last = ((0, len(data)), (0, min(2000, len(data))), (max(0, len(data) - 2000), len(data)))[case % 3]
    result[rng.integers(first, last, rng.choice([1, 5, 40]))] ^= rng.integers(1, 256, dtype=np.uint8)
    return result.tobytes()[: rng.integers(1, len(data)) if case % 10 == 9 else None]


@pytest.mark.slow(but=[".mp4"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_flipped_bytes_end_in_frames_or_one_line(tmp_path, suffix):
    data = real_video(tmp_path, suffix).read_bytes()

    def decode(case):
        path = tmp_path / f"{case}{suffix}"
        path.write_bytes(damaged(data, case))
        count, error = 0, ""
        try:
            for frame in open_source(str(path)):
                assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3
                count += 1
                if count > 1000:  # A damaged header may declare any number of frames.
                    break
        except InputError as caught:
            error = str(caught)
            assert "\n" not in error and str(path) in error
        path.unlink()
        return count, error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(decode, range(CASES)))
    assert sum(count > 0 for count, _ in results) > 10, "some still decode"
    assert sum(bool(error) for _, error in results) > 3, "some do not"


def pretend(monkeypatch, program):
    """Replace the decoding process by a Python program that can send `opened` and `frame`, as a real one does."""
    setting = "import os, sys, time, struct\nout = sys.stdout.buffer\nopened = struct.pack('<cdd', b'o', 50, 10)\n"
    setting += "frame = struct.pack('<ciid', b'f', 48, 64, 0.1) + bytes([40]) * (48 * 64 * 3)\n"
    monkeypatch.setattr(decoding, "command", lambda: [sys.executable, "-c", setting + program])


@pytest.mark.slow
@pytest.mark.parametrize(
    "program, message",
    [
        (
            "out.write(opened + 7 * frame); out.flush(); os.kill(os.getpid(), 11)",
            "the decoder crashed at frame 7 .exit code -11",
        ),
        (
            "out.write(opened + 7 * frame + frame[:999]); out.flush(); os.kill(os.getpid(), 9)",
            "crashed at frame 7 .exit code -9",
        ),
        (
            "out.write(opened + 7 * frame); out.flush(); time.sleep(100)",
            "did not answer for 2 seconds or more at frame 7",
        ),
        (
            "out.write(opened + 7 * frame + frame[:999]); out.flush(); time.sleep(100)",
            "did not answer for 2 seconds or more at frame 7",
        ),
        ("out.write(opened + 7 * frame + b'e'); out.flush()", "decoding failed at frame 7"),
    ],
)
def test_a_decoder_that_fails_takes_nothing_down(tmp_path, predict, capsys, monkeypatch, program, message):
    clip = write_video(tmp_path / "ünï code .mp4", [grey_frame(1)] * 3)
    monkeypatch.setattr(decoding, "PATIENCE", 2.0)
    pretend(monkeypatch, program)
    begin = time.monotonic()
    assert predict(clip, "-o", tmp_path / "out") == 1
    assert time.monotonic() - begin < 60
    line = the_line(capsys.readouterr())
    assert re.search(message, line) and "7 frames written" in line
    assert read_maps(tmp_path / "out/maps") == {f"{i:05d}.png": 40 for i in range(7)}


@pytest.mark.parametrize("program", ["os.kill(os.getpid(), 11)", "time.sleep(100)"])
def test_a_decoder_that_fails_while_opening(tmp_path, monkeypatch, program):
    clip = write_video(tmp_path / "clip.mp4", [grey_frame(1)] * 3)
    monkeypatch.setattr(decoding, "PATIENCE", 1.0)
    pretend(monkeypatch, program)
    with pytest.raises(InputError, match="at its first bytes"):
        VideoFile(clip)


@pytest.mark.slow
@pytest.mark.parametrize(("load", "processors", "answers"), [(20.0, 2, True), (0.1, 2, False)])
def test_a_busy_machine_is_no_damage(tmp_path, monkeypatch, load, processors, answers):
    """With ten processes for each processor, an answer that takes one second takes ten."""
    clip = write_video(tmp_path / "clip.mp4", [grey_frame(1)] * 3)
    monkeypatch.setattr(decoding, "PATIENCE", 1.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    pretend(monkeypatch, "out.write(opened); out.flush(); time.sleep(4); out.write(frame + b'.'); out.flush()")
    process = decoding.DecodingProcess(clip, str(clip), "unreadable")
    try:
        if answers:
            assert process.read()[0].shape == (48, 64, 3)
        else:
            with pytest.raises(InputError, match="did not answer for 1 seconds or more at frame 0"):
                process.read()
    finally:
        process.close()


def children():
    """Processes that were started by this one."""
    tasks = f"/proc/{os.getpid()}/task"
    return {child for task in os.listdir(tasks) for child in open(f"{tasks}/{task}/children").read().split()}


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_no_process_stays_behind(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", [grey_frame(i) for i in range(60)])
    before, threads = children(), threading.active_count()
    source = VideoFile(clip)
    for _ in range(2):
        frames = iter(source)
        next(frames)
        assert len(children() - before) == 1
        frames.close()
    del source, frames
    never_read = VideoFile(clip)
    del never_read
    assert children() <= before
    deadline = time.monotonic() + 20
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.1)
    assert threading.active_count() <= threads


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_the_decoder_leaves_when_its_reader_is_killed(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", [noisy() for _ in range(200)])
    code = "import time; from pathlib import Path; from pdb_saliency.video.reader import VideoFile; "
    code += f"v = VideoFile(Path({str(clip)!r})); "
    code += "print(v._opened._process.pid, flush=True); time.sleep(100)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    decoder = int(reader.stdout.readline())
    reader.kill()
    reader.communicate()
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{decoder}") and time.monotonic() < deadline:
        if open(f"/proc/{decoder}/stat").read().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{decoder}")


@pytest.mark.slow
def test_a_truncated_avi_prints_one_line(tmp_path):
    """OpenCV's own AVI reader complains on the standard error of its process."""
    clip = write_video(tmp_path / "cut.avi", [noisy() for _ in range(30)], codec="MJPG")
    clip.write_bytes(clip.read_bytes()[:20000])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = [sys.executable, str(HELPERS / "fake_model.py")]
    done = subprocess.run(
        [*program, "predict", clip, "-o", tmp_path / "out"], capture_output=True, text=True, env=environment
    )
    lines = [line for line in done.stderr.splitlines() if "note:" not in line]
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("pdb-saliency: error: "), done.stderr


@pytest.mark.slow
def test_a_frame_of_100_megapixels(tmp_path, predict):
    clip = write_video(tmp_path / "huge.avi", [np.full((8192, 12288, 3), 51, np.uint8)] * 2, codec="MJPG")
    frames = 0
    for frame in open_source(str(clip)):
        assert frame.image.shape == (8192, 12288, 3) and abs(int(frame.image[4000, 6000, 0]) - 51) < 3
        frames += 1
    assert frames == 2
