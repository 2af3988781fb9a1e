"""predict --resume: processes killed at random moments, and the results of the last one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.fake_model import GreyModel, PositionModel
from helpers.films import grey_frame, noisy, read_maps, read_video, write_frames, write_video
from helpers.paths import HELPERS
from pdb_saliency import cli

FRAMES = 103


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    return write_video(folder / "clip.mp4", [np.roll(noisy(48, 64), i, 1) for i in range(FRAMES)])


def start(clip, out, kinds, *options):
    command = [sys.executable, HELPERS / "fake_model.py", "predict", clip, "-o", out, "--save", kinds, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "FAKE_MODEL_LOG": f"{out}.log"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


def clips_computed(out):
    return len(Path(f"{out}.log").read_text().splitlines())


def contents(out):
    """All files below OUT except the record: their bytes, or the frames of a video."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "run.json")
    read = {}
    for path in files:
        data = [frame.tobytes() for frame in read_video(path)[0]] if path.suffix == ".mp4" else path.read_bytes()
        read[str(path.relative_to(out))] = data
    return read


@pytest.mark.slow(but=["video,report-2"])
@pytest.mark.parametrize("kinds, kills", [("maps,masks,overlay,video,json", 3), ("video,report", 2)])
def test_killed_again_and_again_ends_as_if_never_killed(clip, tmp_path, kinds, kills):
    finish(start(clip, tmp_path / "whole", kinds, "--resume"))
    out, store = tmp_path / "out", "maps" if "maps" in kinds else ".maps"
    moments = random.Random(kills)
    killed = 0
    while killed < kills:
        process = start(clip, out, kinds, "--resume")
        before = clips_computed(out) if killed else 0
        deadline = time.monotonic() + 120
        wanted = before + moments.randint(1, 4)
        while not (out / store).is_dir() or not Path(f"{out}.log").exists() or clips_computed(out) < wanted:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.002)
        time.sleep(moments.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not json.loads((out / "run.json").read_text())["complete"]
        killed += 1
    done = len([path for path in (out / store).iterdir() if path.suffix == ".png"])
    assert 5 <= done < FRAMES
    finish(start(clip, out, kinds, "--resume"))
    assert contents(out).keys() == contents(tmp_path / "whole").keys()
    assert contents(out) == contents(tmp_path / "whole")
    # A kill can lose the clip that was being computed and those that were being written.
    assert clips_computed(out) <= clips_computed(tmp_path / "whole") + 3 * kills


@pytest.fixture
def predict_with(use_model):
    """The command `predict` with a model: predict_with(model, *arguments) -> exit code."""

    def call(model, *arguments):
        use_model(model)
        return cli.main(["predict", *map(str, arguments)])

    return call


class Interrupted(PositionModel):
    """Raises Ctrl-C at its third clip."""

    def forward(self, clip):
        self.clips = getattr(self, "clips", 0) + 1
        if self.clips == 3:
            raise KeyboardInterrupt
        return super().forward(clip)


class NeverAsked(GreyModel):
    def forward(self, clip):
        raise AssertionError("nothing is left to compute")


def test_a_complete_run_is_not_done_once_more(tmp_path, predict_with, capsys):
    folder = write_frames(tmp_path / "in", [grey_frame(40)] * 12)
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    assert predict_with(NeverAsked(), folder, "-o", tmp_path / "out", "--resume") == 0
    assert tuple(capsys.readouterr()) == (
        f"{tmp_path / 'out'}: everything is there already, from the same command\n",
        "",
    )


@pytest.mark.parametrize("gone", ["maps/00003.png", "maps", "overlay.mp4", "frames.jsonl"])
def test_a_complete_run_whose_results_were_removed_is_done_once_more(tmp_path, predict_with, gone):
    folder, out = write_frames(tmp_path / "in", [grey_frame(40)] * 12), tmp_path / "out"
    command = (folder, "-o", out, "--save", "maps,video,json", "--resume")
    assert predict_with(GreyModel(), *command) == 0
    whole = contents(out)
    shutil.rmtree(out / gone) if (out / gone).is_dir() else (out / gone).unlink()
    assert predict_with(GreyModel(), *command) == 0
    assert contents(out) == whole and json.loads((out / "run.json").read_text())["complete"]


def test_maps_of_an_older_run_are_not_taken_for_its_own(tmp_path, predict_with):
    folder = write_frames(tmp_path / "in", [grey_frame(40)] * 12)
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out") == 0
    assert set(read_maps(tmp_path / "out/maps").values()) == {40}
    assert predict_with(Interrupted(), folder, "-o", tmp_path / "out") == 130
    assert predict_with(PositionModel(), folder, "-o", tmp_path / "out", "--resume") == 0
    expected = [round(255 * (i % 5 + 1) / 10 - 1e-9) for i in range(12)]
    assert list(read_maps(tmp_path / "out/maps").values()) == pytest.approx(expected, abs=1)


def test_another_command_is_refused(tmp_path, predict_with, capsys):
    folder = write_frames(tmp_path / "in", [grey_frame(40)] * 12)
    assert predict_with(Interrupted(), folder, "-o", tmp_path / "out") == 130
    assert (
        predict_with(GreyModel(), folder, "-o", tmp_path / "out", "--resume", "--threshold", 0.5, "--save", "maps,json")
        == 1
    )
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "save ['maps'], now ['json', 'maps']" in line
        and "threshold 0.42, now 0.5" in line
        and "leave out --resume" in line
    )
    cv2.imwrite(str(folder / "00003.png"), grey_frame(41))
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out", "--resume") == 1
    assert "content" in capsys.readouterr().err
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out", "--threshold", 0.5) == 0


def test_damaged_maps_and_records_are_made_again(tmp_path, predict_with):
    folder = write_frames(tmp_path / "in", [grey_frame(40)] * 12)
    assert predict_with(Interrupted(), folder, "-o", tmp_path / "out") == 130
    (tmp_path / "out/maps/00006.png").write_bytes(b"half")
    assert predict_with(PositionModel(), folder, "-o", tmp_path / "out", "--resume") == 0
    assert len(read_maps(tmp_path / "out/maps")) == 12
    (tmp_path / "out/run.json").write_text("{")
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out", "--resume") == 0
    assert set(read_maps(tmp_path / "out/maps").values()) == {40}


def test_frames_refined_by_the_crf_are_not_refined_once_more(tmp_path, predict_with):
    pytest.importorskip("pydensecrf")
    folder = write_frames(
        tmp_path / "in", [cv2.GaussianBlur(np.roll(noisy(48, 64), i, 1), (0, 0), 3) for i in range(17)]
    )
    options = ["--crf", "--crf-workers", 1, "--resume"]
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "whole", *options) == 0

    class LateInterrupted(GreyModel):
        def forward(self, clip):
            self.clips = getattr(self, "clips", 0) + 1
            if self.clips == 4:
                raise KeyboardInterrupt
            return super().forward(clip)

    assert predict_with(LateInterrupted(), folder, "-o", tmp_path / "out", *options) == 130
    assert 5 <= len(list((tmp_path / "out/maps").iterdir())) < 17
    assert predict_with(GreyModel(), folder, "-o", tmp_path / "out", *options) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
