"""MAE, precision, recall, F, S and E: cases worked out by hand, and equality with pysodmetrics."""

import warnings

import cv2
import numpy as np
import pytest

from helpers.paths import shared_path
from pdb_saliency.evaluation.metrics.saliency import SaliencyScores, cut, f_measure, score_frame

HALF = np.array([[0, 0, 255, 255]] * 4, np.uint8)


def reference(prediction, mask, normalise):
    """The scores of one frame by pysodmetrics; its curves begin at the highest cut."""
    sod = pytest.importorskip("py_sod_metrics", reason="pysodmetrics, the reference, is not installed")
    handlers = {
        "f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3),
        "precision": sod.PrecisionHandler(with_dynamic=True, with_adaptive=False),
        "recall": sod.RecallHandler(with_dynamic=True, with_adaptive=False),
    }
    mae, s, e, curves = sod.MAE(), sod.Smeasure(), sod.Emeasure(), sod.FmeasureV2(handlers)
    pair = (prediction, mask) if normalise else (prediction / 255, mask > 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Of empty quadrants in its S-measure.
        for metric in (mae, s, e, curves):
            metric.step(*pair, normalize=normalise)
    result = {name: value["dynamic"][::-1] for name, value in curves.get_results().items()}
    return result | {"mae": mae.maes[0], "s": s.sms[0], "e": e.changeable_ems[0][::-1]}


def assert_equal_to_reference(prediction, mask):
    for normalise in (False, True):
        ours = score_frame(prediction, mask, 0.42, normalise)
        for name, value in reference(prediction, mask, normalise).items():
            if name == "s" and np.isnan(value):  # An empty quadrant: nothing to compare with.
                assert 0 <= ours.s <= 1
                continue
            np.testing.assert_allclose(getattr(ours, name), value, rtol=0, atol=1e-12, err_msg=f"{name} {normalise}")


# By hand


def test_a_perfect_map():
    scores = score_frame(HALF, HALF, 0.42)
    assert scores.mae == 0 and scores.j == 1 and scores.s == pytest.approx(1)
    assert np.all(scores.precision[1:] == 1) and np.all(scores.recall == 1)
    assert scores.precision[0] == 0.5  # Cut at level 0 everything is salient.
    assert scores.e[1:] == pytest.approx(np.full(255, 16 / 15))  # The reference divides by N - 1.


def test_an_inverted_map():
    scores = score_frame(255 - HALF, HALF, 0.42)
    assert scores.mae == 1 and scores.j == 0 and scores.s == pytest.approx(0)
    assert np.all(scores.precision[1:] == 0) and np.all(scores.recall[1:] == 0) and np.all(scores.f[1:] == 0)


def test_one_pixel_too_many():
    prediction = HALF.copy()
    prediction[0, 0] = 255  # 8 object pixels, 9 predicted.
    scores = score_frame(prediction, HALF, 0.42)
    assert scores.mae == 1 / 16
    assert scores.j == 8 / 9
    assert scores.precision[255] == 8 / 9 and scores.recall[255] == 1
    assert scores.f[255] == pytest.approx(1.3 * (8 / 9) / (0.3 * 8 / 9 + 1))


def test_a_grey_map_counts_up_to_its_level_alone():
    scores = score_frame(np.full((4, 4), 51, np.uint8), HALF, 0.42)
    assert scores.mae == pytest.approx(0.5)  # 0.2 off the object, 0.8 on it.
    assert np.all(scores.recall[:52] == 1) and np.all(scores.recall[52:] == 0)
    assert scores.j == 0


def test_empty_maps_and_masks():
    empty = np.zeros((4, 4), np.uint8)
    both = score_frame(empty, empty, 0.42)
    assert (both.mae, both.j, both.s) == (0, 1, 1)
    assert np.all(both.f == 0)  # As in the reference: without an object there is nothing to recall.
    assert score_frame(empty, HALF, 0.42).j == 0
    assert score_frame(HALF, empty, 0.42).j == 0


def test_threshold_is_reached_not_exceeded():
    prediction = np.array([[107, 108]], np.uint8)  # 0.42 * 255 = 107.1
    assert cut(prediction, 0.42).tolist() == [[False, True]]
    assert cut(prediction, 108 / 255).tolist() == [[False, True]]
    assert cut(np.array([[254, 255]], np.uint8), 1.0).tolist() == [[False, True]]
    assert cut(prediction, 0.0).all()


def test_normalise_stretches_each_map():
    prediction = np.array([[100, 110, 120]] * 2, np.uint8)
    mask = np.array([[0, 0, 255]] * 2, np.uint8)
    assert score_frame(prediction, mask, 0.5, normalise=True).mae == pytest.approx(0.5 / 3)
    assert cut(prediction, 0.5, normalise=True).tolist() == [[False, True, True]] * 2
    assert cut(np.full((2, 2), 100, np.uint8), 0.5, normalise=True).tolist() == [[False] * 2] * 2  # Constant: stays.


def test_floats_are_rounded_as_they_are_saved():
    prediction = np.random.default_rng(0).random((9, 7), np.float32)
    mask = (prediction > 0.6).astype(np.uint8)
    saved = score_frame(np.rint(prediction * 255).astype(np.uint8), mask, 0.42)
    assert score_frame(prediction, mask, 0.42).mae == saved.mae == score_frame(prediction, mask > 0, 0.42).mae


def test_means_take_the_f_of_each_frame_first():
    total = SaliencyScores()
    total.add(HALF, HALF)
    total.add(np.zeros((4, 4), np.uint8), HALF)
    result = total.result()
    assert result["frames"] == 2 and result["mae"] == 0.25
    at_half = f_measure(np.array(0.5), np.array(1.0))  # The empty map, cut at level 0.
    assert result["max_f"] == pytest.approx(max((1 + 0) / 2, at_half))
    assert result["precision"][255] == 0.5 and result["recall"][255] == 0.5
    assert result["max_f_cut"] == 0
    total.add(HALF, HALF)
    assert total.result()["max_f"] == pytest.approx(2 / 3) and total.result()["max_f_cut"] == 1 / 255


def test_no_frames():
    with pytest.raises(ValueError, match="no frame"):
        SaliencyScores().result()


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), HALF, r"\(H, W\)"),
        (np.zeros((4, 5), np.uint8), HALF, "one size"),
        (np.zeros((4, 4), np.int32), HALF, "int32"),
        (np.full((4, 4), 1.5), HALF, "1.5"),
        (np.full((4, 4), np.nan), HALF, "nan"),
        (HALF, HALF.astype(np.float32), "float32"),
        (np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8), "mask"),
    ],
)
def test_refused(prediction, mask, message):
    with pytest.raises(ValueError, match=message):
        score_frame(prediction, mask, 0.42)


# Against pysodmetrics


@pytest.mark.parametrize("seed", range(60))
def test_equals_pysodmetrics_on_anything(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(2, 13, 2))
    levels = [np.arange(256), np.array([0, 255]), np.array([0, 1, 107, 108, 254, 255])][seed % 3]
    prediction = random.choice(levels, shape).astype(np.uint8)
    mask = np.where(random.random(shape) < random.random(), np.uint8(255), np.uint8(0))
    ours, theirs = score_frame(prediction, mask, 0.42), reference(prediction, mask, False)
    for name in ("mae", "precision", "recall", "f", "e"):
        np.testing.assert_allclose(getattr(ours, name), theirs[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("seed", range(12))
def test_equals_pysodmetrics_on_blobs(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(20, 90, 2)
    noise = cv2.GaussianBlur(random.random((height, width)), (0, 0), 6)
    mask = np.where(noise > np.quantile(noise, random.uniform(0.3, 0.95)), np.uint8(255), np.uint8(0))
    soft = cv2.GaussianBlur(mask, (0, 0), random.uniform(0.5, 9))
    noisy = np.clip(soft.astype(int) + random.integers(-60, 60, soft.shape), 0, 255).astype(np.uint8)
    for prediction in (soft, noisy, np.clip(noisy, 40, 180), mask, 255 - mask, np.roll(mask, 7, 1)):
        assert_equal_to_reference(prediction, mask)
    for constant in (0, 255):
        assert_equal_to_reference(soft, np.full_like(mask, constant))
        assert_equal_to_reference(np.full_like(mask, constant), mask)


def test_equals_pysodmetrics_on_real_frames():
    folder = shared_path("data/davis_dev")
    masks = sorted((folder / "Annotations").glob("*/00010.png"))
    assert len(masks) == 6
    for path in masks:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        frame = cv2.imread(str(folder / "JPEGImages" / path.parent.name / "00010.jpg"), cv2.IMREAD_GRAYSCALE)
        assert_equal_to_reference(cv2.GaussianBlur(mask, (0, 0), 12), mask)
        assert_equal_to_reference(frame, mask)


def test_dataset_means_equal_pysodmetrics():
    sod = pytest.importorskip("py_sod_metrics")
    random = np.random.default_rng(3)
    f = sod.FmeasureV2({"f": sod.FmeasureHandler(with_dynamic=True, with_adaptive=False, beta=0.3)})
    s, e, mae, ours = sod.Smeasure(), sod.Emeasure(), sod.MAE(), SaliencyScores()
    for _ in range(5):
        mask = np.where(cv2.GaussianBlur(random.random((40, 50)), (0, 0), 4) > 0.5, np.uint8(255), np.uint8(0))
        prediction = np.clip(cv2.GaussianBlur(mask, (0, 0), 5) + random.integers(0, 30, mask.shape), 0, 255).astype(
            np.uint8
        )
        for metric in (f, s, e, mae):
            metric.step(prediction / 255, mask > 128, normalize=False)
        ours.add(prediction, mask)
    result = ours.result()
    assert result["max_f"] == pytest.approx(f.get_results()["f"]["dynamic"].max(), abs=1e-12)
    assert result["e_max"] == pytest.approx(e.get_results()["em"]["curve"].max(), abs=1e-12)
    assert result["s"] == pytest.approx(s.get_results()["sm"], abs=1e-12)
    assert result["mae"] == pytest.approx(mae.get_results()["mae"], abs=1e-12)
    assert result["e"].argmax() == 255 - e.get_results()["em"]["curve"].argmax()


def test_s_of_degenerate_quadrants():
    corner = np.zeros((5, 6), np.uint8)
    corner[:, -1] = 255  # The centroid is in the last column: nothing is right of it, and pysodmetrics gives NaN.
    assert score_frame(corner, corner, 0.42).s == pytest.approx(1)
    assert 0 < score_frame(np.full_like(corner, 77), corner, 0.42).s < 1
