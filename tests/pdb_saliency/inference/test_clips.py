"""Clips of a stream: overlapping and blended, causal, and the results before an unreadable frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.models import CPU, TABLE_5, assert_as_good, clip, engine_maps, films, plain_maps, tiny, trained_like
from pdb_saliency import InputError
from pdb_saliency.inference.clips import blend_weights, blended, clips
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.temporal import step
from pdb_saliency.options import EngineOptions


@pytest.mark.parametrize(("length", "overlap"), [(5, 0), (5, 2), (5, 4), (4, 3), (2, 1), (1, 0)])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 6, 7, 8, 11, 13])
def test_overlapping_clips_cover_every_frame(count, length, overlap):
    groups = list(clips(range(count), length, overlap))
    starts = [group.frames[0] for group in groups]
    assert starts == list(range(0, max(count - overlap, count > 0), length - overlap))[: len(groups)]
    assert all(group.frames[: group.kept] == list(range(s, min(s + length, count))) for s, group in zip(starts, groups))
    assert all(len(group.frames) == length for group in groups)
    assert {index for group in groups for index in group.frames[: group.kept]} == set(range(count))
    assert all(set(group.frames) <= set(range(count)) for group in groups)


def test_the_blend_is_the_weighted_mean():
    """Clip k gives the map k: frame t of clips 0 .. n has the mean of their numbers, weighted by its places in them."""
    number = iter(range(100))

    def maps(group):
        value = next(number)
        return [np.full((1, 1), value, np.float32)] * len(group.frames)

    results = [map_.item() for _, map_ in blended([(i, i) for i in range(9)], maps, 5, 3)]
    weights = [1, 2, 3, 2, 1]
    assert blend_weights(5).tolist() == weights and blend_weights(4).tolist() == [1, 2, 2, 1]
    for t, result in enumerate(results):
        pairs = [(k, weights[t - 2 * k]) for k in range(3) if 0 <= t - 2 * k < 5]
        assert result == pytest.approx(sum(k * w for k, w in pairs) / sum(w for _, w in pairs))


@pytest.mark.parametrize("count", [1, 4, 5, 6, 13])
def test_overlap_by_the_plain_loop(count):
    model, frames = trained_like(tiny()).float(), films(count)
    total = weight = 0
    for start in range(0, max(count - 2, 1), 3):
        maps = plain_maps(model, frames[max(start - 3, 0) :] if start + 5 > count > 5 else frames[start:])
        offset = 0
        if start + 5 > count > 5:  # The last clip: reflect it with the frames before, by hand.
            order = [*range(start, count), *range(count - 2, -1, -1)][:5]
            maps = plain_maps(model, [frames[i] for i in order])
        for place in range(min(5, count - start)):
            one = np.zeros((count, 24, 30), np.float32)
            one[start + place] = 1
            factor = min(place, 4 - place) + 1
            total, weight = total + one * factor * maps[offset + place], weight + one * factor
    np.testing.assert_allclose(engine_maps(model, frames, overlap=2), total / weight, atol=1e-5)


def test_every_frame_is_encoded_once():
    model = trained_like(tiny()).float()
    seen = []
    engine = Engine(model, CPU, EngineOptions(overlap=4))
    encode = engine._encode
    engine._encode = lambda frames: seen.append(len(frames)) or encode(frames)
    assert len(list(engine.maps(films(11)))) == 11 and sum(seen) == 11


@pytest.mark.parametrize("options", [{}, {"overlap": 3}, {"causal": True}, {"batch": 4}])
def test_maps_before_an_unreadable_frame_come_out(options):
    def frames():
        yield from films(7)
        raise InputError("frame 7")

    model = trained_like(tiny()).float()
    names = []
    with pytest.raises(InputError, match="frame 7"):
        for frame, _ in Engine(model, CPU, EngineOptions(**options)).maps(frames()):
            names.append(frame.name)
    assert names == list("0123456")


@pytest.mark.parametrize("options", [*TABLE_5, {"variant": "released"}, {"decoder": "skip"}], ids=str)
def test_a_causal_map_is_that_of_the_last_frame_of_a_clip(options):
    model = trained_like(tiny(**options))
    frames = clip(1, 4)
    with torch.no_grad():
        encoded = model.encode(frames[0])
        together, _ = model.step(encoded, None, (33, 41))
        state = None
        for t in range(4):
            one, state = model.step(tuple(part[t : t + 1] for part in encoded), state, (33, 41))
            expected = model(frames[:, : t + 1])[0, t, 0].sigmoid()
            torch.testing.assert_close(one[0], expected)
            torch.testing.assert_close(together[t], expected)


def test_steps_keep_the_videos_of_a_batch_apart():
    module = trained_like(tiny()).temporal
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    both, _ = step(module, x, None)
    for index in range(2):
        torch.testing.assert_close(both[index : index + 1], step(module, x[index : index + 1], None)[0])


def test_causal_through_the_engine():
    model, frames = trained_like(tiny()), films(9)
    exact = np.stack([plain_maps(model, frames[: t + 1], t + 1)[t] for t in range(9)])
    model = model.float()
    plain = np.stack([plain_maps(model, frames[: t + 1], t + 1)[t] for t in range(9)])
    assert_as_good(engine_maps(model, frames, causal=True), plain, exact)
    np.testing.assert_allclose(engine_maps(model, frames, causal=True, batch=4), plain, atol=1e-5)
