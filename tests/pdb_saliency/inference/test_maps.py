"""Clips, and the maps made of them."""

import dataclasses

import numpy as np
import pytest

from helpers.fake_model import GreyModel, PositionModel
from helpers.films import grey_frame
from helpers.models import CPU
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.inference.clips import clips
from pdb_saliency.inference.engine import saliency_maps
from pdb_saliency.model.output import to_source_size
from pdb_saliency.video.frame import Frame


def named(count):
    return [Frame(str(i), grey_frame(i)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 10, 52])
def test_clips_are_filled_by_reflection(count):
    groups = list(clips(iter(named(count))))
    order = [int(frame.name) for clip in groups for frame in clip.frames]
    assert order == np.pad(np.arange(count), (0, -count % 5), mode="reflect").tolist()
    assert [clip.kept for clip in groups] == [5] * (count // 5) + [count % 5] * (count % 5 > 0)


def test_clips_of_nothing():
    assert list(clips([])) == []


def test_frames_before_a_bad_one_still_come_out():
    def stream():
        yield from named(7)
        raise InputError("frame 7")

    groups = []
    with pytest.raises(InputError, match="frame 7"):
        groups.extend(clips(stream()))
    assert [[int(f.name) for f in clip.frames] for clip in groups] == [[0, 1, 2, 3, 4], [5, 6, 5, 4, 3]]


def test_the_prediction_in_its_own_place_is_kept():
    kept = [round(float(saliency.mean()), 3) for _, saliency in saliency_maps(named(7), PositionModel(), CPU)]
    assert kept == [0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.2]


def test_saliency_keeps_its_place_size_and_value():
    step = np.zeros((90, 160, 3), np.uint8)
    step[:, 80:] = 200
    small = np.full((11, 7, 3), 51, np.uint8)
    (_, first), (_, second) = saliency_maps([Frame("a", step), Frame("b", small)], GreyModel(), CPU)
    assert first.shape == (90, 160) and first.dtype == np.float32 and second.shape == (11, 7)
    assert first[:, :76].max() < 1e-3 and np.allclose(first[:, 84:], 200 / 255, atol=1e-5)
    assert np.allclose(second, 0.2, atol=1e-5)


def test_resizing_never_leaves_the_range():
    saliency = np.random.default_rng(0).random((21, 33), np.float32).round()
    for size in ((1, 1), (480, 853), (10, 7)):
        resized = to_source_size(saliency.copy(), *size)
        assert resized.shape == size and 0 <= resized.min() and resized.max() <= 1


def test_a_model_that_fails_or_gives_nan_is_one_line():
    class Broken(GreyModel):
        def forward(self, clip):
            raise RuntimeError("out of memory\nmany\nlines")

    class Nan(GreyModel):
        def forward(self, clip):
            return super().forward(clip) * float("nan")

    with pytest.raises(
        SaliencyError, match="^the model failed at frame 0: not enough memory; .* need less \\(out of memory\\)$"
    ):
        list(saliency_maps(named(2), Broken(), CPU))

    class Huge(GreyModel):
        input_spec = dataclasses.replace(GreyModel.input_spec, height=1 << 14, width=1 << 40)

    with pytest.raises(SaliencyError, match="^the model failed at frame 0: not enough memory; .*Unable to allocate"):
        list(saliency_maps(named(2), Huge(), CPU))
    with pytest.raises(SaliencyError, match="not finite"):
        list(saliency_maps(named(2), Nan(), CPU))
