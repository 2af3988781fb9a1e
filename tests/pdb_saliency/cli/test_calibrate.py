"""`pdb-saliency calibrate`: a model and videos in, tables and a calibrated model out."""

import pytest
import torch

from helpers.checkpoints import disk_model
from helpers.painted import video_of
from pdb_saliency import cli, load_model, save_model


@pytest.fixture
def model():
    return disk_model()


def test_the_command_writes_a_model_that_is_calibrated(model, tmp_path, capsys):
    video_of(tmp_path / "set", "long", 13)
    save_model(model, tmp_path / "a.safetensors")
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "set")]
    assert cli.main(["calibrate", *arguments, "-o", str(tmp_path / "b.safetensors"), "--half"]) == 0
    printed = capsys.readouterr().out
    before, after = (float(line.split()[-1]) for line in printed.splitlines() if "expected calibration error" in line)
    assert after < before
    result = load_model(tmp_path / "b.safetensors")
    assert "scale {}, offset {};".format(*result.config.calibration) in printed
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size


def test_maps_that_say_nothing_are_reported(model, tmp_path, capsys):
    """Maps of constant saliency; the model is given as the folder of a training run."""
    video_of(tmp_path / "set", "long", 7)
    with torch.no_grad():
        model.head.predict.weight.mul_(0)
    save_model(model, tmp_path / "model.safetensors")
    assert cli.main(["calibrate", str(tmp_path), str(tmp_path / "set")]) == 0
    assert "the maps hardly show what is salient" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["b.txt", "nowhere/b.pth"])
def test_a_target_that_cannot_be_written_is_reported_before_the_work(model, tmp_path, target, capsys):
    save_model(model, tmp_path / "a.safetensors")
    assert cli.main(["calibrate", str(tmp_path / "a.safetensors"), str(tmp_path), "-o", str(tmp_path / target)]) == 1
    assert str(tmp_path / target) in capsys.readouterr().err
