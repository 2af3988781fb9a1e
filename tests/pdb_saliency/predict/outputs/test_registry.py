"""A new kind of result is one class and one line in the table: everything else takes it from there."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.console import help_of, run_process
from helpers.fake_model import PositionModel
from helpers.films import grey_frame, write_frames
from pdb_saliency import cli
from pdb_saliency.cli.program import make_parser
from pdb_saliency.predict.outputs import OUTPUTS, PICTURES, RECORD, OutputKind


class MeanOutput:
    """mean.txt: each frame's name and mean saliency."""

    def __init__(self, kind, path, run):
        self._path, self._lines = path, []
        self.remarks = [f"{kind.name} at threshold {run.threshold}"]

    def write(self, result):
        self._lines.append(f"{result.frame.name} {result.saliency.mean():.3f}\n")

    def finish(self):
        self._path.write_text("".join(self._lines))

    def discard(self):
        pass


class LevelsOutput:
    """levels/NAME.npy: each frame's map as an array."""

    def __init__(self, kind, path, run):
        self._folder, self._suffix, self.remarks = path, kind.suffix, []

    def write(self, result):
        path = self._folder / f"{result.frame.name}{self._suffix}"
        if result.frame.known is None or not path.exists():
            np.save(path, result.map)

    def finish(self):
        pass

    def discard(self):
        pass


class Interrupted(PositionModel):
    """Raises Ctrl-C at its second clip."""

    def forward(self, clip):
        self.clips = getattr(self, "clips", 0) + 1
        if self.clips == 2:
            raise KeyboardInterrupt
        return super().forward(clip)


@pytest.fixture
def mean(monkeypatch):
    kind = OutputKind("mean", RECORD, "mean.txt", f"{__name__}:MeanOutput", "each frame's mean saliency", needs="luck")
    monkeypatch.setitem(OUTPUTS, "mean", kind)


@pytest.fixture
def levels(monkeypatch):
    made_by, help = f"{__name__}:LevelsOutput", "each frame's map as an array"
    monkeypatch.setitem(OUTPUTS, "levels", OutputKind("levels", PICTURES, "levels", made_by, help, suffix=".npy"))


@pytest.fixture
def folder(tmp_path):
    return write_frames(tmp_path / "in", [grey_frame(51 * i) for i in range(6)])


MEANS = "".join(f"{i:05d} {0.2 * i:.3f}\n" for i in range(6))


def test_it_is_written_beside_the_others_and_recorded(tmp_path, folder, predict, mean, capsys):
    out = tmp_path / "out"
    assert predict(folder, "-o", out, "--save", "maps,mean") == 0
    assert (out / "mean.txt").read_text() == MEANS and len(list((out / "maps").iterdir())) == 6
    record = json.loads((out / "run.json").read_text())
    assert record["complete"] and record["settings"]["save"] == ["maps", "mean"]
    captured = capsys.readouterr()
    assert captured.out == f"6 frames -> {out / 'maps'}, {out / 'mean.txt'}\n"
    assert "pdb-saliency: note: mean at threshold 0.42" in captured.err


def test_resume_does_nothing_unless_it_was_removed(tmp_path, folder, predict, mean, capsys):
    command = (folder, "-o", tmp_path / "out", "--save", "maps,mean", "--resume")
    assert predict(*command) == predict(*command) == 0
    assert "everything is there already" in capsys.readouterr().out
    (tmp_path / "out" / "mean.txt").unlink()
    assert predict(*command) == 0
    assert (tmp_path / "out" / "mean.txt").read_text() == MEANS


def test_resume_makes_it_from_the_maps_of_an_interrupted_run(tmp_path, folder, use_model, mean):
    command = ["predict", str(folder), "-o", str(tmp_path / "out"), "--save", "mean", "--resume"]
    use_model(Interrupted())
    assert cli.main(command) == 130
    assert not (tmp_path / "out" / "mean.txt").exists() and (tmp_path / "out" / ".maps").is_dir()
    use_model(PositionModel())
    assert cli.main(command) == 0
    values = [float(line.split()[1]) for line in (tmp_path / "out" / "mean.txt").read_text().splitlines()]
    assert values == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.1], abs=3e-3)


def read_levels(out):
    return {path.name: float(np.load(path).mean()) for path in sorted((out / "levels").iterdir())}


def test_files_of_frames_have_the_suffix_of_their_kind(tmp_path, folder, predict, levels, capsys):
    command = (folder, "-o", tmp_path / "out", "--save", "maps,levels", "--resume")
    assert predict(*command) == 0
    written = {f"{i:05d}.npy": 51 * i for i in range(6)}
    assert read_levels(tmp_path / "out") == written
    assert predict(*command) == 0
    assert "everything is there already" in capsys.readouterr().out
    (tmp_path / "out" / "levels" / "00002.npy").rename(tmp_path / "out" / "levels" / "00002.png")
    assert predict(*command) == 0
    (tmp_path / "out" / "levels" / "00002.png").unlink()
    assert read_levels(tmp_path / "out") == written
    assert "OUT/levels/NAME.npy: each frame's map as an array" in help_of(["predict"], capsys)


def test_resume_writes_what_is_missing_of_an_interrupted_run(tmp_path, use_model, levels):
    folder = write_frames(tmp_path / "in", [grey_frame(51)] * 17)
    out = tmp_path / "out"
    command = ["predict", str(folder), "-o", str(out), "--save", "maps,levels", "--resume"]
    use_model(Interrupted())
    assert cli.main(command) == 130
    assert not json.loads((out / "run.json").read_text())["complete"]
    np.save(out / "levels" / "00000.npy", np.uint8(7))  # It is there, and is kept.
    (out / "levels" / "00001.npy").unlink()
    use_model(PositionModel())
    assert cli.main(command) == 0
    maps = {f"{path.stem}.npy": cv2.imread(str(path), 0).mean() for path in (out / "maps").iterdir()}
    assert read_levels(out) == {**maps, "00000.npy": 7} and len(maps) == 17


def test_an_input_in_its_place_is_not_overwritten(tmp_path, predict, mean, capsys):
    picture = write_frames(tmp_path / "out", [grey_frame(9)]) / "00000.png"
    picture.rename(tmp_path / "out" / "mean.txt")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "00000.png").symlink_to(tmp_path / "out" / "mean.txt")
    assert predict(tmp_path / "in", "-o", tmp_path / "out", "--save", "mean") == 1
    assert "results would be written over it" in capsys.readouterr().err


def test_the_command_line_knows_it(mean, capsys):
    text = help_of(["predict"], capsys)
    line = f"  --save {'mean':13} OUT/mean.txt: each frame's mean saliency (needs luck)"
    assert line in text.splitlines() and "OUT/maps/NAME.png" in text
    with pytest.raises(SystemExit):
        cli.main(["predict", "x", "-o", "y", "--save", "maps,film"])
    assert ", report, mean, got 'maps,film'" in capsys.readouterr().err
    predict = next(iter(make_parser()._subparsers._group_actions)).choices["predict"]
    (save,) = [action for action in predict._actions if action.dest == "save"]
    assert save.completer("maps,me") and "maps,mean" in save.completer("maps,me")


def test_every_kind_has_a_writer_and_a_place_of_its_own():
    assert len({kind.place for kind in OUTPUTS.values()}) == len(OUTPUTS)
    for name, kind in OUTPUTS.items():
        assert kind.name == name and Path(kind.place).name == kind.place and kind.help
        assert all(hasattr(kind.output_class(), method) for method in ("write", "finish", "discard"))


def test_the_table_needs_the_standard_library_alone():
    code = "import sys, pdb_saliency.predict.outputs; print(sorted({'cv2', 'numpy', 'torch'} & set(sys.modules)))"
    assert run_process("-c", code).stdout == "[]\n"
