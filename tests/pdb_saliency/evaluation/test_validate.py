"""Scores of a model in memory: those that `predict` and `evaluate` would give."""

import json

import cv2
import numpy as np
import pytest
import torch

from helpers.fake_model import GreyModel, PositionModel
from helpers.models import CPU
from helpers.painted import mask_of, video_of
from pdb_saliency import cli
from pdb_saliency.data.sets.items import Video
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.validate import annotated_clips, validate


def test_same_scores_as_predict_and_evaluate(tmp_path, grey_model):
    videos = [video_of(tmp_path, "long", 13), video_of(tmp_path, "short", 3)]
    for video in videos:
        source = str(tmp_path / "JPEGImages" / video.name)
        assert cli.main(["predict", source, "-o", str(tmp_path / "out" / video.name)]) == 0
    target = tmp_path / "scores.json"
    masks = str(tmp_path / "Annotations")
    assert cli.main(["evaluate", str(tmp_path / "out"), masks, "--json", str(target)]) == 0
    expected = json.loads(target.read_text())
    found = validate(GreyModel(), videos, CPU)
    assert found == pytest.approx({name: expected[name] for name in found})
    assert found["frames"] == 16 and 0.5 < found["j_mean"] < 1 and 0.5 < found["max_f"] < 1


def test_threshold_cuts_for_j(tmp_path):
    videos = [video_of(tmp_path, "a", 5)]
    assert validate(GreyModel(), videos, CPU, threshold=0.95)["j_mean"] == 0
    assert validate(GreyModel(), videos, CPU, threshold=0.5)["j_mean"] > 0.6


def test_sparse_masks(tmp_path):
    video = video_of(tmp_path, "a", 23, annotated={0, 10, 20})
    seen = []

    class Counting(PositionModel):
        def forward(self, clip):
            seen.append(len(clip))
            return super().forward(clip)

    result = validate(Counting(), [video], CPU)
    assert result["frames"] == 3
    assert len(seen) == 4  # Frames 0-4, 10-14 and 20-22, which is filled up from 15-19.
    assert result["mae"] == pytest.approx(np.mean([_error(mask_of(number), 0.1) for number in (0, 10, 20)]), abs=1e-3)


def _error(mask, saliency):
    return np.abs(np.rint(saliency * 255) / 255 - (mask > 0)).mean()


@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_nth_clip(tmp_path, every):
    video = video_of(tmp_path, "a", 17)
    frames = annotated_clips(video, every)
    scored = [n for n in range(17) if n // 5 % every == 0]
    # The last clip needs the one before it, which is seen but not scored.
    assert frames == ([*range(5), *range(10, 17)] if every == 3 else scored)
    assert validate(GreyModel(), [video], CPU, clips_every=every)["frames"] == len(scored)


def test_first_and_last_frame_do_not_count_for_j(tmp_path):
    video = video_of(tmp_path, "a", 7)
    before = validate(GreyModel(), [video], CPU)
    for number in (0, 6):
        cv2.imwrite(str(video.masks[number][0]), 255 - mask_of(number))
    after = validate(GreyModel(), [video], CPU)
    assert after["j_mean"] == before["j_mean"] and after["mae"] > before["mae"]


@pytest.mark.parametrize("training", [True, False])
def test_model_is_left_as_it_was(tmp_path, training):
    model = GreyModel().train(training)
    states = []
    model.register_forward_hook(lambda module, *_: states.append((module.training, torch.is_grad_enabled())))
    validate(model, [video_of(tmp_path, "a", 5)], CPU)
    assert model.training is training and states == [(False, False)]
    with pytest.raises(InputError):
        validate(model, [Video("gone", (tmp_path / "no.png",), ((tmp_path / "no.png",),))], CPU)
    assert model.training is training


def test_nothing_annotated(tmp_path):
    with pytest.raises(InputError, match="the 1 videos have none"):
        validate(GreyModel(), [video_of(tmp_path, "a", 5, annotated=())], CPU)
    with pytest.raises(InputError, match="0 videos"):
        validate(GreyModel(), [], CPU)
    with pytest.raises(ValueError, match="clips_every"):
        validate(GreyModel(), [], CPU, clips_every=0)


def test_mask_of_another_size_is_named(tmp_path):
    video = video_of(tmp_path, "a", 5)
    cv2.imwrite(str(video.masks[2][0]), mask_of(2)[:50])
    with pytest.raises(InputError, match=r"00002\.png"):
        validate(GreyModel(), [video], CPU)
