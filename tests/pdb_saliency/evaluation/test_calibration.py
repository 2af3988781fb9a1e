"""A model's saliency as a probability."""

import numpy as np
import pytest
import torch

from helpers.models import CPU, tiny, trained_like
from helpers.walking_disk import video_of
from pdb_saliency import cli, load_model, save_model
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.calibration import (
    _BINS,
    _CENTRES,
    best_threshold,
    calibration_error,
    fit,
    observe,
    overlap_at,
    reliability,
    set_calibration,
)
from pdb_saliency.evaluation.validate import validate
from pdb_saliency.model.output import calibrated


def drawn(scale, offset, pixels=4_000_000, seed=0):
    """Counts of masks that are drawn with the probabilities that `calibrated` gives."""
    rng = np.random.default_rng(seed)
    total = rng.multinomial(pixels, np.full(_BINS, 1 / _BINS))
    salient = rng.binomial(total, calibrated(_CENTRES, scale, offset).astype(np.float64))
    return np.stack([total - salient, salient])


@pytest.mark.parametrize("numbers", [(1.0, 0.0), (1.7, -0.8), (0.6, 1.2)])
def test_the_fit_finds_what_the_masks_were_drawn_with(numbers):
    counts = drawn(*numbers)
    assert fit(counts) == pytest.approx(numbers, abs=0.02)
    assert calibration_error(reliability(counts, *numbers)) < 2e-3  # The noise of the drawing.
    if numbers != (1.0, 0.0):
        assert calibration_error(reliability(counts)) > 0.05


def test_maps_that_say_the_opposite_have_no_calibration():
    with pytest.raises(InputError, match="say nothing"):
        fit(drawn(1.0, 0.0)[::-1])


def test_a_scale_too_small_to_store_is_none():
    """It would be rounded to 0, which no model may have."""
    counts = np.zeros((2, _BINS), np.int64)
    counts[:, [400, 1600]] = [[1_000_000, 1_000_000], [100_000, 100_001]]
    with pytest.raises(InputError, match="say nothing"):
        fit(counts)


@pytest.fixture
def model():
    """Random weights, which happen to find the disk less salient than the ground: turned round, and spread over the range."""
    model = trained_like(tiny(backbone="efficientnet_lite0", decoder="skip")).float()
    with torch.no_grad():
        model.head.predict.weight.mul_(-5)
    return model


def test_thresholds_are_those_of_the_calibrated_maps(model, tmp_path):
    videos = [video_of(tmp_path, "long", 13), video_of(tmp_path, "short", 7)]
    set_calibration(model, 1.4, 0.3)
    observed = observe(model, videos, CPU)
    assert model.config.calibration == (1.4, 0.3)
    assert observed.counts.sum() == 20 * 72 * 128
    for threshold in (0.2, 0.42, 0.7):
        expected = validate(model, videos, CPU, threshold=threshold)["j_mean"]
        assert overlap_at(observed.overlaps, threshold, 1.4, 0.3) == pytest.approx(expected, abs=0.01)  # Half a bin.
    threshold, overlap = best_threshold(observed.overlaps, 1.4, 0.3)
    assert overlap == observed.overlaps.max() >= expected
    assert validate(model, videos, CPU, threshold=threshold)["j_mean"] == pytest.approx(overlap, abs=0.01)


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


def test_maps_that_say_nothing_are_told(model, tmp_path, capsys):
    """Those of constant saliency; the model is a training run's."""
    video_of(tmp_path / "set", "long", 7)
    with torch.no_grad():
        model.head.predict.weight.mul_(0)
    save_model(model, tmp_path / "model.safetensors")
    assert cli.main(["calibrate", str(tmp_path), str(tmp_path / "set")]) == 0
    assert "the maps hardly tell what is salient" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["b.txt", "nowhere/b.pth"])
def test_a_target_that_cannot_be_written_is_told_before_the_work(model, tmp_path, target, capsys):
    save_model(model, tmp_path / "a.safetensors")
    assert cli.main(["calibrate", str(tmp_path / "a.safetensors"), str(tmp_path), "-o", str(tmp_path / target)]) == 1
    assert str(tmp_path / target) in capsys.readouterr().err
