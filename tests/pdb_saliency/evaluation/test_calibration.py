"""A model's saliency as a probability."""

import numpy as np
import pytest

from helpers.checkpoints import disk_model
from helpers.models import CPU
from helpers.painted import video_of
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.calibration import (
    BINS,
    CENTRES,
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
    """Counts of masks drawn with the probabilities that `calibrated` returns."""
    rng = np.random.default_rng(seed)
    total = rng.multinomial(pixels, np.full(BINS, 1 / BINS))
    salient = rng.binomial(total, calibrated(CENTRES, scale, offset).astype(np.float64))
    return np.stack([total - salient, salient])


@pytest.mark.parametrize("numbers", [(1.0, 0.0), (1.7, -0.8), (0.6, 1.2)])
def test_the_fit_finds_what_the_masks_were_drawn_with(numbers):
    counts = drawn(*numbers)
    assert fit(counts) == pytest.approx(numbers, abs=0.02)
    assert calibration_error(reliability(counts, *numbers)) < 2e-3  # The noise of the random draw.
    if numbers != (1.0, 0.0):
        assert calibration_error(reliability(counts)) > 0.05


def test_maps_that_say_the_opposite_cannot_be_calibrated():
    with pytest.raises(InputError, match="say nothing"):
        fit(drawn(1.0, 0.0)[::-1])


def test_a_scale_too_small_to_store_is_refused():
    """It would be rounded to 0, which no model may have."""
    counts = np.zeros((2, BINS), np.int64)
    counts[:, [400, 1600]] = [[1_000_000, 1_000_000], [100_000, 100_001]]
    with pytest.raises(InputError, match="say nothing"):
        fit(counts)


@pytest.fixture
def model():
    return disk_model()


@pytest.mark.slow
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
