"""Kinds of clips: each has a source."""

import numpy as np
import pytest

from helpers.dataset_folders import video
from helpers.painted import still
from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.mix import KINDS, ClipKind, mix_clips
from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.options import CLIP_KINDS


@pytest.fixture
def sets(tmp_path):
    video(tmp_path / "set/JPEGImages/walk", tmp_path / "set/Annotations/walk", 12, every=3)
    return [Dataset("stills", (still(tmp_path),)), open_dataset("set", tmp_path)]


def test_every_kind_of_clip_has_a_source():
    assert tuple(KINDS) == CLIP_KINDS


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_the_source_of_every_kind_makes_clips(sets, kind):
    mix = mix_clips([(dataset, 1) for dataset in sets], {kind: 1})
    clip = mix.sources[0].clip(np.random.default_rng(0), 3)
    assert len(mix.sources) == 1 and mix.weights == [1] and mix.words[0].startswith(f"{kind} of ")
    assert len(clip.frames) == 3 and any(mask is not None and mask.any() for mask in clip.masks)


def test_a_new_kind_is_one_entry(sets, monkeypatch):
    class Reversed:
        def __init__(self, videos):
            self.videos = videos

        def clip(self, rng, length):
            return TrainingClip("reversed", [np.zeros((2, 2, 3), np.uint8)] * length, [None] * length)

    monkeypatch.setitem(KINDS, "reversed", ClipKind(lambda dataset, _: Reversed(dataset.videos), from_videos=True))
    monkeypatch.setattr("pdb_saliency.data.mix.CLIP_KINDS", (*CLIP_KINDS, "reversed"))
    mix = mix_clips([(dataset, 1) for dataset in sets], {"reversed": 2})
    assert [source.videos for source in mix.sources] == [sets[1].videos] and mix.weights == [2]
    assert mix.words[0].startswith("reversed of set: 4 pictures")
