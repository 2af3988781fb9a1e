"""J, F and their statistics: cases worked out by hand, and the definition of DAVIS-2016 pixel by pixel."""

import itertools
import math

import cv2
import numpy as np
import pytest

from helpers.paths import shared_path
from pdb_saliency.evaluation.metrics.davis import boundary, boundary_measure, scored_frames, statistics
from pdb_saliency.evaluation.metrics.saliency import SaliencyScores


def plain_boundary(mask):
    """A pixel whose right, lower, or lower right neighbour (inside the picture) is on the other side of the mask."""
    height, width = mask.shape
    edge = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1)):
                if y + dy < height and x + dx < width and bool(mask[y, x]) != bool(mask[y + dy, x + dx]):
                    edge[y, x] = True
    return edge


def plain_f(prediction, mask, tolerance=0.008):
    """Distances between all pairs of boundary pixels: slow, but too simple to get wrong."""
    radius = math.ceil(tolerance * math.hypot(*mask.shape))
    own, true = (np.argwhere(plain_boundary(picture)) for picture in (prediction, mask))
    if not len(own) or not len(true):
        return float(len(own) == len(true))
    near = ((own[:, None] - true[None]) ** 2).sum(2) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def blob(random, height, width, share):
    noise = cv2.GaussianBlur(random.random((height, width)), (0, 0), 3)
    return np.where(noise > np.quantile(noise, 1 - share), np.uint8(255), np.uint8(0))


# Region


def region_similarity(prediction, mask):
    """J as `evaluate` computes it."""
    return SaliencyScores(0.42).add((prediction != 0).astype(np.float32), mask).j


def test_region_similarity():
    mask = np.zeros((10, 10), np.uint8)
    mask[2:6, 2:6] = 255
    moved = np.roll(mask, 2, 1)
    assert region_similarity(mask, mask) == 1
    assert region_similarity(moved, mask) == 8 / 24
    assert region_similarity(255 - mask, mask) == 0
    assert region_similarity(np.zeros_like(mask), mask) == 0
    assert region_similarity(np.zeros_like(mask), np.zeros_like(mask)) == 1
    assert region_similarity(moved > 0, (mask > 0).astype(np.uint8)) == 8 / 24  # Any non-zero value is the object.


# Boundary


def test_boundary_of_a_square():
    mask = np.zeros((6, 6), np.uint8)
    mask[2:4, 2:4] = 1
    expected = np.zeros((6, 6), np.uint8)
    expected[1, 1:4] = expected[1:4, 1] = 1  # Half a pixel towards the origin.
    expected[3, 2:4] = expected[2:4, 3] = 1
    assert boundary(mask).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_boundary_by_pixels(seed):
    random = np.random.default_rng(seed)
    mask = blob(random, *random.integers(2, 25, 2), random.uniform(0.05, 0.95))
    assert np.array_equal(boundary(mask) > 0, plain_boundary(mask))


def test_boundary_measure_by_hand():
    mask = np.zeros((100, 100), np.uint8)  # Tolerance ceil(0.008 * 141.4) = 2 pixels.
    mask[40:60, 40:60] = 255
    assert boundary_measure(mask, mask) == 1
    assert boundary_measure(np.roll(mask, 2, 0), mask) == 1
    assert boundary_measure(np.roll(mask, 3, 0), mask) < 1
    assert boundary_measure(np.roll(mask, 30, 0), mask) == 0
    assert boundary_measure(255 - mask, mask) == 1  # The complement has the same boundary.


def test_boundary_measure_without_a_boundary():
    mask = np.zeros((30, 40), np.uint8)
    square = mask.copy()
    square[5:9, 5:9] = 255
    assert boundary_measure(mask, mask) == 1
    assert boundary_measure(mask, mask + 255) == 1  # All object: no boundary either.
    assert boundary_measure(square, mask) == 0
    assert boundary_measure(mask, square) == 0


@pytest.mark.parametrize("seed", range(30))
def test_boundary_measure_by_pixels(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(3, 60, 2)
    mask = blob(random, height, width, random.uniform(0.02, 0.98))
    other = blob(random, height, width, random.uniform(0.02, 0.98))
    tolerance = (0.008, 0.03, 0.1)[seed % 3]
    for prediction in (other, np.roll(mask, 2, 1), cv2.dilate(mask, np.ones((3, 3)))):
        assert boundary_measure(prediction, mask, tolerance) == pytest.approx(
            plain_f(prediction, mask, tolerance), abs=1e-12
        )


def test_boundary_measure_on_real_masks():
    folder = shared_path("data/davis_dev/Annotations")
    for sequence in ("bmx-trees", "dance-twirl"):
        masks = [cv2.imread(str(folder / sequence / f"{number:05d}.png"), 0) for number in (20, 22)]
        later, now = (cv2.resize(mask, (427, 240), interpolation=cv2.INTER_NEAREST) for mask in masks)
        expected = plain_f(later, now)
        assert 0.2 < expected < 0.99 and boundary_measure(later, now) == pytest.approx(expected, abs=1e-12)


# Over a sequence


def test_first_and_last_frame_are_left_out():
    assert list(range(10))[scored_frames(10)] == list(range(1, 9))
    assert list(range(3))[scored_frames(3)] == [1]
    assert list(range(2))[scored_frames(2)] == [0, 1]
    assert list(range(1))[scored_frames(1)] == [0]


def test_statistics_by_hand():
    mean, recall, decay = statistics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert mean == pytest.approx(0.5)
    assert recall == 4 / 9  # 0.5 itself is not above.
    assert decay == pytest.approx(0.8 - 0.2)  # Quarters of frames 1-3 and 7-9; neighbours share an end.


def plain_decay(scores):
    """The toolkit's quarters, counted from 1: round(1 + i (n - 1) / 4), halves upwards."""
    ends = [math.floor(1 + i * (len(scores) - 1) / 4 + 0.5 + 1e-10) for i in range(5)]
    quarters = [scores[begin - 1 : end] for begin, end in itertools.pairwise(ends)]
    return np.mean(quarters[0]) - np.mean(quarters[3])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 23, 48, 78, 255, 257, 800])
def test_decay(count):
    scores = np.random.default_rng(count).random(count)
    assert statistics(scores)[2] == pytest.approx(plain_decay(scores), abs=1e-12)


def test_statistics_of_one_frame():
    assert statistics([0.75]) == (0.75, 1, 0)
