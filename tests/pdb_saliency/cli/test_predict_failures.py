import os
import resource
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from helpers.films import as_nobody, grey_frame, noisy, read_maps, read_video, the_line, write_frames, write_video
from helpers.paths import HELPERS
from pdb_saliency.errors import OutputError
from pdb_saliency.predict.outputs.writer import ResultWriter


def test_bad_frame_leaves_everything_before_it(tmp_path, predict, capsys):
    folder = write_frames(tmp_path / "in", [grey_frame(20 * i) for i in range(10)])
    (folder / "00007.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    assert predict(folder, "-o", tmp_path / "out", "--save", "maps,video") == 1
    line = the_line(capsys.readouterr())
    assert line.startswith("pdb-saliency: error: ") and "00007.png" in line and "7 frames written" in line
    assert read_maps(tmp_path / "out" / "maps") == {f"{i:05d}.png": 20 * i for i in range(7)}
    assert len(read_video(tmp_path / "out" / "overlay.mp4")[0]) == 7


def test_truncated_video_leaves_everything_before_the_cut(tmp_path, predict, capsys):
    path = write_video(tmp_path / "clip.avi", [grey_frame(4 * i) for i in range(60)], codec="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert predict(path, "-o", tmp_path / "out") == 1
    written = len(read_maps(tmp_path / "out" / "maps"))
    assert 15 < written < 45
    assert f"{written} of 60 frames decode; {written} frames written" in the_line(capsys.readouterr())


def test_results_never_replace_their_input(tmp_path, predict, capsys):
    folder = write_frames(tmp_path / "out" / "maps", [grey_frame(200)])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for source in (folder, folder / "00000.png", tmp_path / "link" / "maps"):
        assert predict(source, "-o", tmp_path / "out") == 1
        assert "results would be written over it" in the_line(capsys.readouterr())
    video = write_video(tmp_path / "out" / "overlay.mp4", [grey_frame(1)] * 3)
    before = video.read_bytes()
    assert predict(video, "-o", tmp_path / "out", "--save", "video") == 1
    assert video.read_bytes() == before and cv2.imread(str(folder / "00000.png")).mean() == 200


def test_results_never_replace_the_file_that_an_input_links_to(tmp_path, predict, capsys):
    picture = write_frames(tmp_path / "out" / "maps", [grey_frame(200)]) / "00000.png"
    video = write_video(tmp_path / "out" / "overlay.mp4", [grey_frame(1)] * 3)
    before = picture.read_bytes(), video.read_bytes()
    (tmp_path / "in").mkdir()
    for link, file in (("clip.mp4", video), ("00000.png", picture)):
        (tmp_path / "in" / link).symlink_to(file)
    for source in ("in/clip.mp4", "in/00000.png", "in"):
        assert predict(tmp_path / source, "-o", tmp_path / "out", "--save", "maps,video") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert [line.count("would be written over it") for line in errors] == [1, 1, 1]
    assert (picture.read_bytes(), video.read_bytes()) == before


def test_a_link_that_leads_to_itself_is_one_line(tmp_path, predict, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").symlink_to("0.png")
    assert predict(tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "0.png: cannot be read" in the_line(capsys.readouterr())


def test_a_name_as_long_as_a_name_may_be(tmp_path, predict):
    name = "ü" * 125 + "x"
    (write_frames(tmp_path / "in", [grey_frame(7)]) / "00000.png").rename(tmp_path / "in" / f"{name}.png")
    assert predict(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert read_maps(tmp_path / "out" / "maps") == {f"{name}.png": 7}


@pytest.mark.parametrize("occupied", ["out", "out/maps", "out/maps/00000.png", "out/overlay.mp4"])
def test_something_else_in_the_place_of_a_result(tmp_path, predict, capsys, occupied):
    folder = write_frames(tmp_path / "in", [grey_frame(9)])
    (tmp_path / occupied).parent.mkdir(parents=True, exist_ok=True)
    if occupied in ("out", "out/maps"):
        (tmp_path / occupied).write_text("a file where a folder belongs")
    else:
        (tmp_path / occupied).mkdir()
    assert predict(folder, "-o", tmp_path / "out", "--save", "maps,video") == 1
    line = the_line(capsys.readouterr())
    assert str(tmp_path / occupied) in line and "cannot be written" in line
    assert not list(tmp_path.rglob(".*"))


def test_no_permission_to_write():
    with as_nobody() as (folder, drop_privileges):
        (folder / "closed").mkdir()
        drop_privileges()
        for out in ("closed", "closed/new"):
            with pytest.raises(OutputError, match="closed.*cannot be written .*ermission"):
                ResultWriter(folder / out, ["maps"])


@pytest.mark.parametrize("kind", ["maps", "video"])
def test_file_size_limit(tmp_path, predict, capsys, kind):
    """Frames 0-5 fit below the limit; the sixth picture does not, or the video grows past it."""
    smooth, size = [grey_frame(40 * i, 96, 128) for i in range(6)], (96, 128)
    folder = write_frames(tmp_path / "in", smooth + [noisy(*size)] * 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        code = predict(folder, "-o", tmp_path / "out", "--save", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = the_line(capsys.readouterr())
    assert code == 1
    if kind == "maps":
        assert "00006.png" in line and "File too large" in line
        assert read_maps(tmp_path / "out" / "maps", *size) == {f"{i:05d}.png": 40 * i for i in range(6)}
    else:
        assert "overlay.mp4" in line and [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


# Interrupted runs


def start_long_run(tmp_path):
    """`predict` of 400 frames in a separate process, after it has written some of the results."""
    folder = tmp_path / "in"
    if not folder.exists():
        write_frames(folder, [np.roll(noisy(), i, 1) for i in range(400)], ".bmp")
    program = [sys.executable, HELPERS / "fake_model.py"]
    command = [*program, "predict", folder, "-o", tmp_path / "out", "--save", "maps,masks,video"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # If the tests run as a shell's background job, their processes would ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("masks/0*.png"))) < 20:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    return process


def assert_complete_pictures(out):
    for kind in ("maps", "masks"):
        for path in (out / kind).iterdir():
            if not path.name.startswith("."):
                assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (96, 128), path


@pytest.mark.slow(but=["2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption(tmp_path, number):
    process = start_long_run(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if line and "note:" not in line] == [
        "pdb-saliency: interrupted; the files written so far are complete"
    ]
    assert_complete_pictures(tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".*")) and not (tmp_path / "out" / "overlay.mp4").exists()
    assert 20 <= len(list((tmp_path / "out" / "masks").iterdir())) < 400


def test_kill_9_leaves_complete_files_and_the_next_run_clears_up(tmp_path, predict):
    process = start_long_run(tmp_path)
    process.kill()
    process.communicate()
    out = tmp_path / "out"
    assert_complete_pictures(out)
    assert [path.name for path in out.iterdir() if path.suffix == ".mp4"] == [".overlay.part.mp4"]
    (out / "maps" / ".00003.png.part").write_bytes(
        b"half a picture"
    )  # What a process killed in the middle of a write leaves behind.
    assert predict(tmp_path / "in", "-o", out, "--save", "maps,masks,video") == 0
    assert not list(out.rglob(".*"))
    assert len(list((out / "maps").iterdir())) == 400 == len(read_video(out / "overlay.mp4")[0])
