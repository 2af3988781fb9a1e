"""Maps whose borders are aligned with the picture, and calibrated ones."""

import math

import cv2
import numpy as np
import pytest

from pdb_saliency.model.output import _EPS, _RADIUS, OutputSpec, _coefficients, calibrated, guided


def exact_coefficients(saliency, guide):
    """Equations 14 to 16 of "Guided image filtering" (He et al. 2013), window by window, in float64."""
    radius = max(round(_RADIUS * math.sqrt(saliency.size)), 1)
    height, width = saliency.shape
    colours, p = guide.astype(np.float64) / 255, saliency.astype(np.float64)
    rows, columns = (np.pad(np.arange(size), radius, mode="symmetric") for size in (height, width))
    linear = np.zeros((height, width, 4))
    for y, x in np.ndindex(height, width):
        window = np.ix_(rows[y : y + 2 * radius + 1], columns[x : x + 2 * radius + 1])
        inside, values = colours[window].reshape(-1, 3), p[window].ravel()
        covariance = np.cov(inside.T, bias=True) + _EPS * np.eye(3)
        a = np.linalg.solve(covariance, (inside * values[:, None]).mean(0) - inside.mean(0) * values.mean())
        linear[y, x] = *(a / 255), values.mean() - a @ inside.mean(0)
    means = np.empty_like(linear)
    for y, x in np.ndindex(height, width):
        window = np.ix_(rows[y : y + 2 * radius + 1], columns[x : x + 2 * radius + 1])
        means[y, x] = linear[window].mean((0, 1))
    return means


def scene(size=(120, 200), seed=0):
    """A coloured disc on a background of another colour, both with some texture: picture, mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (y - 60) ** 2 + (x - 90) ** 2 < 35**2
    picture = np.where(inside[..., None], (40, 60, 200), (90, 140, 60)) + rng.normal(0, 6, (*size, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), inside


def iou(saliency, mask):
    found = saliency >= 0.5
    return (found & mask).sum() / (found | mask).sum()


def test_the_coefficients_are_those_of_the_paper():
    rng = np.random.default_rng(1)
    guide = cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3), np.uint8), (0, 0), 2)
    saliency = cv2.GaussianBlur(rng.random((40, 56), np.float32), (0, 0), 3)
    ours, exact = _coefficients(saliency, guide), exact_coefficients(saliency, guide)
    # What matters is the map that results.
    maps = [(c[..., :3] * guide).sum(-1) + c[..., 3] for c in (ours, exact)]
    # Variances are differences of float32 means, exact to 6e-8, and _EPS is added: a relative error of 0.002 in their
    # inverse, on maps of at most 1.
    assert np.abs(maps[0] - maps[1]).max() < 2 * 6e-8 / _EPS


def test_borders_come_from_the_picture():
    picture, mask = scene()
    coarse = cv2.resize(cv2.resize(mask.astype(np.float32), (24, 15), interpolation=cv2.INTER_AREA), (81, 49))
    plain, fine = OutputSpec()(coarse, picture), OutputSpec(guided=True)(coarse, picture)
    assert fine.shape == plain.shape == mask.shape and fine.dtype == np.float32
    assert fine.min() >= 0 and fine.max() <= 1
    assert 1 - iou(fine, mask) < 0.5 * (1 - iou(plain, mask))


def test_a_map_that_is_constant_stays_so():
    picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    for value in (0.0, 0.3, 1.0):
        assert np.abs(guided(np.full((33, 25), value, np.float32), picture) - value).max() < 1e-4


def test_a_picture_without_colours_only_smooths():
    saliency = np.random.default_rng(0).random((48, 80), np.float32)
    fine = guided(saliency, np.full((96, 160, 3), 77, np.uint8))
    assert 0 < fine.std() < 0.2 * saliency.std() and fine.mean() == pytest.approx(saliency.mean(), abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 2000), (480, 854), (1700, 2600)])
def test_any_size_of_frame(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    saliency = np.random.default_rng(1).random((17, 33), np.float32)
    fine = guided(saliency, picture)
    assert fine.shape == size and np.isfinite(fine).all() and fine.min() >= 0 and fine.max() <= 1


def test_calibration_is_platts():
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    inner = values[1:-1].astype(np.float64)
    for scale, offset in ((1.0, 0.7), (2.5, -1.3), (0.4, 0.0)):
        changed = calibrated(values, scale, offset)
        assert changed.dtype == np.float32 and changed[0] == 0 and changed[-1] == 1 and (np.diff(changed) >= 0).all()
        exact = 1 / (1 + np.exp(-(scale * np.log(inner / (1 - inner)) + offset)))
        assert np.abs(changed[1:-1] - exact).max() < 4 * np.finfo(np.float32).eps
    assert calibrated(values, 1.0, 0.0) is values
