"""A run that is killed, interrupted, or loses a checkpoint ends as if nothing had happened."""

import json
import multiprocessing
import os
import random
import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from helpers.train_discs import main_with_stderr, run, small_config
from pdb_saliency.errors import InputError, OutputError, SaliencyError
from pdb_saliency.training.checkpoints import Checkpoints
from pdb_saliency.training.config import RunOptions

OPTIONS = RunOptions(checkpoint=5, validate=7, scalars=1, pictures=0)
SETTINGS = ["stage=temporal", "checkpoint=5", "validate=7", "scores=1"]

# Each new process starts with everything imported.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["helpers.train_discs", "lightning_fabric", "torch.utils.tensorboard"])


class Training:
    """train_discs.py in its own process; `errors` is what it wrote to stderr."""

    def __init__(self, folder, *settings):
        self._stderr = folder.with_name(f"{folder.name}.stderr")
        self._process = PROCESSES.Process(
            target=main_with_stderr, args=(self._stderr, str(folder), *SETTINGS, *settings)
        )
        self._process.start()

    def send(self, number):
        if self._process.is_alive():
            os.kill(self._process.pid, number)

    def wait(self):
        """Its exit code, or minus the number of the signal that ended it."""
        self._process.join(60)
        assert self._process.exitcode is not None, "the run hangs"
        return self._process.exitcode

    def until(self, condition):
        while not condition():
            assert self._process.is_alive() or condition(), self.errors
            time.sleep(0.01)

    @property
    def errors(self):
        return self._stderr.read_text() if self._stderr.exists() else ""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all") / "uninterrupted"
    training = Training(folder)
    assert training.wait() == 0, training.errors
    return folder


def assert_same(folder, other):
    """Bit for bit: final and best weights, every logged scalar, metrics."""
    for name in ("model.safetensors", "best.safetensors"):
        ours, theirs = load_file(folder / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    for name in ("log.jsonl", "metrics.json", "config.json"):
        assert (folder / name).read_text() == (other / name).read_text(), name
    assert not list(folder.rglob(".*.part"))


def logged(folder):
    """The last step with a complete line in the log."""
    lines = (folder / "log.jsonl").read_text().split("\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, uninterrupted):
    """SIGKILL, again and again, at random moments of the start, of steps and of writing."""
    moments, went_on = random.Random(3), 0
    folder = tmp_path / "run"
    for step in (0, 1, 3, 4, 0, 9, 13, 14, 0, 18, 20):
        training = Training(folder, "pause=0.01", "checkpoint=2")
        if step:  # 0: during the start.
            training.until(lambda run=training, step=step: "step/s" in run.errors and logged(folder) >= step)
        time.sleep(moments.uniform(0.0, 0.1))
        training.send(signal.SIGKILL)
        went_on += "going on after step" in training.errors
        assert training.wait() == -signal.SIGKILL
    assert went_on >= 4
    training = Training(folder)
    assert training.wait() == 0, training.errors
    assert_same(folder, uninterrupted)


@pytest.mark.slow
def test_killed_while_features_are_stored(tmp_path):
    """Twice: stored samples are not computed again, and the result is that of an uninterrupted run."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    training = Training(whole, "cache=12")
    assert training.wait() == 0, training.errors

    def stored():
        done = folder / "cache/done.bin"
        return sum(done.read_bytes()) if done.exists() else 0

    for count in (2, 7):
        training = Training(folder, "cache=12", "pause=0.05")
        training.until(lambda count=count: stored() >= count)
        training.send(signal.SIGKILL)
        assert training.wait() == -signal.SIGKILL
        assert count <= stored() < 12 and not (folder / "checkpoints").exists()
    training = Training(folder, "cache=12")
    assert training.wait() == 0, training.errors
    assert_same(folder, whole)
    assert (folder / "cache/samples.bin").read_bytes() == (whole / "cache/samples.bin").read_bytes()


def test_only_its_own_unfinished_files_are_removed(tmp_path):
    for name in (
        ".film.part",
        ".model.safetensors.77.part",
        ".log.jsonl.part",
        ".best.safetensors.part",
        ".step-1.ckpt.part",
    ):
        (tmp_path / name).write_bytes(b"half")
    run(tmp_path, small_config(steps=1), OPTIONS)
    assert {path.name for path in tmp_path.glob(".*")} == {".film.part", ".step-1.ckpt.part"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_between_two_steps(tmp_path, uninterrupted, number):
    folder = tmp_path / "run"
    training = Training(folder, "pause=0.02", "checkpoint=1000", "workers=1")
    training.until(lambda: (folder / "log.jsonl").exists() and (folder / "log.jsonl").read_text().count("\n") > 3)
    training.send(number)
    assert training.wait() == 130
    step = int(re.search(r"checkpoint of step (\d+) written; the same command goes on from there", training.errors)[1])
    assert Checkpoints(folder / "checkpoints").steps() == [step] and 0 < step < 24
    assert "Traceback" not in training.errors
    training = Training(folder)
    assert training.wait() == 0 and f"going on after step {step} of 24" in training.errors
    assert_same(folder, uninterrupted)


def test_a_finished_run_only_says_so_again(tmp_path, uninterrupted):
    before = (uninterrupted / "log.jsonl").read_text()
    metrics = run(uninterrupted, small_config("temporal"), OPTIONS, scores=True)
    assert metrics == json.loads((uninterrupted / "metrics.json").read_text())
    assert (uninterrupted / "log.jsonl").read_text() == before


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"lr": 0.5}, "lr is 0.001 there and 0.5 here"),
        ({"steps": 48}, "steps is 24 there and 48 here"),
        ({"data": ("copies of a",)}, "data has (nothing) there and copies of a here"),
        ({"model": small_config().model | {"width": 4}}, "model.width is 2 there and 4 here"),
    ],
)
def test_another_configuration_is_refused(uninterrupted, entries, words):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        run(uninterrupted, small_config("temporal", **entries), OPTIONS)
    assert "\n" not in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")} == before


def test_a_longer_run_at_a_fixed_rate_goes_on(tmp_path):
    fixed = {"schedule": "fixed", "ema": 0.0}
    run(tmp_path / "a", small_config(steps=6, **fixed), OPTIONS)
    run(tmp_path / "a", small_config(steps=12, **fixed), OPTIONS)
    run(tmp_path / "b", small_config(steps=12, **fixed), OPTIONS)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(InputError, match="already at step 12, past the 6 asked for"):
        run(tmp_path / "a", small_config(steps=6, **fixed), OPTIONS)


def test_someones_model_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(InputError, match="no checkpoints"):
        run(tmp_path, small_config(), OPTIONS)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_the_last_two_are_kept_and_damage_falls_back(tmp_path):
    checkpoints, remarks = Checkpoints(tmp_path), []
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "tensor": torch.full((1000,), float(step))})
    assert checkpoints.steps() == [2, 3]
    last = tmp_path / "step-000000003.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # One bit: torch.load would not notice.
    last.write_bytes(content)
    assert checkpoints.load(remarks.append)["step"] == 2
    assert len(remarks) == 1 and str(last) in remarks[0] and "checksum" in remarks[0] and "\n" not in remarks[0]
    last.write_bytes(content[:100])
    assert checkpoints.load(remarks.append)["step"] == 2
    (tmp_path / "step-000000002.ckpt").write_bytes(b"")
    with pytest.raises(SaliencyError, match="every checkpoint is damaged"):
        checkpoints.load(remarks.append)
    assert Checkpoints(tmp_path / "none").load(remarks.append) is None


@pytest.mark.slow
def test_a_damaged_last_checkpoint_changes_nothing_but_time(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    checkpoints = Checkpoints(folder / "checkpoints")
    training = Training(folder, "pause=0.02")
    training.until(lambda: len(checkpoints.steps()) == 2)
    training.send(signal.SIGKILL)
    training.wait()
    earlier, last = checkpoints.steps()
    (folder / "checkpoints" / f"step-{last:09d}.ckpt").write_bytes(b"\0" * 1000)
    training = Training(folder)
    assert training.wait() == 0 and "damaged" in training.errors
    assert f"going on after step {earlier} of" in training.errors
    assert_same(folder, uninterrupted)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="step-000000002.ckpt: cannot be written .No space left on device"):
        checkpoints.save(2, {"step": 2})
    assert checkpoints.load(print)["step"] == 1 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "damage",
    [
        {"model": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"random": torch.zeros(3)},
        {"best": 3},
        {"config": None},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_checkpoint_with_other_contents_is_refused_in_one_line(tmp_path, damage):
    run(tmp_path, small_config(steps=2), OPTIONS)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(2, checkpoints.load(print) | damage)
    with pytest.raises(SaliencyError, match="last checkpoint") as caught:
        run(tmp_path, small_config(steps=2), OPTIONS)
    assert "\n" not in str(caught.value)
