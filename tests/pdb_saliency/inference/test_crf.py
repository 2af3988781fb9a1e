"""The CRF against its library's own answer, and its pool of processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.checkpoints import frame_of, mask_of
from helpers.films import noisy, the_line, write_frames
from helpers.paths import HELPERS
from pdb_saliency import cli
from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference import crf
from pdb_saliency.predict.outputs.result import to_map
from pdb_saliency.video.frame import Frame

densecrf = pytest.importorskip("pydensecrf.densecrf")


def scene(number, height=60, width=80):
    """(image, soft saliency): a disc on noisy ground."""
    rng = np.random.default_rng(number)
    mask = cv2.circle(np.zeros((height, width), np.uint8), (20 + 3 * number, 30), 15, 255, -1)
    image = np.where(mask[..., None] > 0, np.uint8(180), np.uint8(60)) + rng.integers(
        0, 40, (height, width, 3), np.uint8
    )
    return image, cv2.GaussianBlur(mask, (0, 0), 6).astype(np.float32) / 255


def library_answer(image, saliency):
    """As the authors' script calls it, up to its stretching: labels background, object; 5 iterations."""
    object_ = np.clip(saliency, 1e-5, 1 - 1e-5)
    field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], 2)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(np.stack([1 - object_, object_])).reshape(2, -1)))
    field.addPairwiseGaussian(sxy=3, compat=3, kernel=densecrf.DIAG_KERNEL, normalization=densecrf.NORMALIZE_SYMMETRIC)
    field.addPairwiseBilateral(sxy=60, srgb=5, rgbim=image, compat=5)
    return np.array(field.inference(5)).reshape(2, *saliency.shape)[1]


class Collector:
    out = None

    def __init__(self):
        self.received = []
        self.finished = False

    @property
    def frames(self):
        return len(self.received)

    def write(self, frame, saliency):
        self.received.append((frame.name, saliency))

    def finish(self):
        self.finished = True


def test_the_answer_is_the_library_s():
    for number in range(3):
        image, saliency = scene(number)
        assert np.array_equal(crf.refine(image, saliency), library_answer(image, saliency))


def test_what_it_does_to_soft_maps():
    """As the docstring says: hardly any soft pixels remain, and an object that is below a half everywhere vanishes."""
    image, saliency = scene(0)
    refined = crf.refine(image, saliency)
    assert ((saliency > 0.1) & (saliency < 0.9)).mean() > 5 * ((refined > 0.1) & (refined < 0.9)).mean()
    assert crf.refine(image, 0.45 * saliency).max() < 0.42


def test_maps_snap_to_the_edges_of_the_frame():
    blurred = cv2.GaussianBlur(mask_of(3), (0, 0), 5).astype(np.float32) / 255
    refined = crf.refine(frame_of(3), blurred)
    assert refined.dtype == np.float32 and refined.shape == (40, 60) and 0 <= refined.min() <= refined.max() <= 1
    mask = mask_of(3) > 0
    assert np.abs(refined - mask).mean() < 0.3 * np.abs(blurred - mask).mean()
    assert np.isfinite(crf.refine(frame_of(3), mask.astype(np.float32))).all()  # Probabilities of 0 and 1.
    with pytest.raises(ValueError, match="uint8"):
        crf.refine(frame_of(3)[:20], blurred)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_keeps_order_and_answers(workers):
    scenes = [scene(number, 40 + 20 * (number % 3)) for number in range(11)]  # Some take longer than others.
    collector, held = Collector(), []
    with crf.RefiningWriter(collector, workers) as writer:
        for number, (image, saliency) in enumerate(scenes):
            writer.write(Frame(str(number), image), saliency)
            held.append(number + 1 - collector.frames)
        writer.finish()
    assert max(held) <= 2 * workers, "memory is bounded"
    assert [name for name, _ in collector.received] == [str(number) for number in range(11)] and collector.finished
    for (_, refined), (image, saliency) in zip(collector.received, scenes):
        assert np.array_equal(refined, crf.refine(image, saliency))
    assert not multiprocessing.active_children()


def test_a_killed_process_is_one_line():
    image, saliency = scene(0, 400, 500)
    with pytest.raises(SaliencyError, match="a CRF process was killed .*--crf-workers"):
        with crf.RefiningWriter(Collector(), 1) as writer:
            writer.write(Frame("0", image), saliency)
            while not multiprocessing.active_children():
                time.sleep(0.01)
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            for number in range(5):
                writer.write(Frame(str(number), image), saliency)


@pytest.fixture
def busy_run(tmp_path):
    """`predict --crf` in a separate process, whose two CRF processes never finish a frame; and their numbers."""
    folder = write_frames(tmp_path / "in", [noisy(480, 640)] * 12)  # More than a pipe holds.
    command = [sys.executable, HELPERS / "fake_model.py", "predict", folder, "-o", tmp_path / "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "FAKE_ENDLESS_CRF": "1"}
    process = subprocess.Popen(
        [*command, "--crf", "--crf-workers", "2"], stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline, workers = time.monotonic() + 120, []
    while len(workers) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        workers = [pid for pid in children(process.pid) if b"spawn_main" in commandline(pid)]
        time.sleep(0.05)
    time.sleep(1)  # Until they are at work; if that is too short, the test is merely easier.
    yield process, workers
    process.kill()


def children(pid):
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def commandline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@needs_proc
def test_ctrl_c_does_not_wait_for_the_crf(tmp_path, busy_run):
    process, workers = busy_run
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "pdb-saliency: interrupted; the files written so far are complete"
    assert not any(map(commandline, workers)) and not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.slow
@needs_proc
def test_a_killed_run_leaves_no_crf_processes_behind(busy_run):
    process, workers = busy_run
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(map(commandline, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_option_crf(tmp_path, grey_model):
    folder = write_frames(
        tmp_path / "in", [cv2.GaussianBlur(np.roll(noisy(48, 64), i, 1), (0, 0), 3) for i in range(7)]
    )
    plain, refined = tmp_path / "plain", tmp_path / "refined"
    assert cli.main(["predict", str(folder), "-o", str(plain)]) == 0
    assert cli.main(["predict", str(folder), "-o", str(refined), "--crf", "--crf-workers", "2"]) == 0
    names = sorted(path.name for path in (refined / "maps").iterdir())
    assert names == [f"{i:05d}.png" for i in range(7)]
    image = cv2.imread(str(folder / "00004.png"))
    saliency = cv2.imread(str(plain / "maps/00004.png"), 0).astype(np.float32) / 255
    difference = cv2.imread(str(refined / "maps/00004.png"), 0).astype(int) - to_map(crf.refine(image, saliency))
    assert np.abs(difference).mean() < 1, "the plain map is rounded, its saliency was not"


def test_option_crf_without_the_library(tmp_path, monkeypatch, grey_model, capsys):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    folder = write_frames(tmp_path / "in", [noisy(20, 20)])
    assert cli.main(["predict", str(folder), "-o", str(tmp_path / "out"), "--crf"]) == 1
    assert (
        "needs pydensecrf2: pip install 'pdb-ext[crf]'" in the_line(capsys.readouterr())
        and not (tmp_path / "out").exists()
    )
