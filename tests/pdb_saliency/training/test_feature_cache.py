"""Frozen features on disk: the same training, built once, never stale."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers.train_discs import small_config
from helpers.training_data import TINY, DiscSamples
from pdb_saliency.errors import InputError, OutputError, SaliencyError
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.training.distributed import launch
from pdb_saliency.training.feature_cache import FeatureCache, build_cache, fill_share, record_layout

CONFIG = small_config("temporal", cache=5)


class Counting(DiscSamples):
    """Remembers which samples were made."""

    def __init__(self, **options):
        super().__init__(TINY.input_spec, CONFIG.length, annotated=(True, False), **options)
        self.made = []

    def __getitem__(self, number):
        self.made.append(number)
        return super().__getitem__(number)


@pytest.fixture
def model():
    return SaliencyModel(TINY).eval().requires_grad_(False)


def build(model, samples, folder, config=CONFIG) -> FeatureCache:
    return build_cache(launch("cpu"), model, samples, config, folder)


def test_holds_what_the_model_encodes(tmp_path, model):
    samples = Counting()
    cache = build(model, samples, tmp_path)
    for number in (0, 4, 7):  # 7 is 2 again.
        sample, stored = samples[number % 5], cache[number]
        for ours, exact in zip(stored["features"], model.encode(sample["clip"]), strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3)
        assert torch.equal(stored["mask"], sample["mask"]) and torch.equal(stored["valid"], sample["valid"])
        assert stored["name"] == sample["name"] and stored["mask"].dtype == torch.float32


def test_is_built_once_and_goes_on_where_it_was(tmp_path, model, monkeypatch):
    samples, encode = Counting(), model.encode

    def failing(clip):
        if len(samples.made) > 4:  # Sample 0 for its size, then 0, 1 and 2.
            raise KeyboardInterrupt
        return encode(clip)

    monkeypatch.setattr(model, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        build(model, samples, tmp_path)
    monkeypatch.undo()
    samples.made.clear()
    build(model, samples, tmp_path)
    assert samples.made == [0, 3, 4]
    samples.made.clear()
    build(model, samples, tmp_path)
    assert samples.made == [0]


@pytest.mark.parametrize("change", ["weights", "data", "seed", "size"])
def test_a_stale_cache_is_not_used(tmp_path, model, change):
    build(model, Counting(), tmp_path)
    config = CONFIG
    if change == "weights":
        model.spatial.reduce.conv.weight[0, 0] += 1e-3
    else:
        config = dataclasses.replace(
            CONFIG, **{"data": {"data": ("other",)}, "seed": {"seed": 1}, "size": {"size": (33, 41)}}[change]
        )
    samples = Counting()
    build(model, samples, tmp_path, config)
    assert samples.made == [0, 0, 1, 2, 3, 4]


def test_temporal_weights_do_not_matter(tmp_path, model):
    build(model, Counting(), tmp_path)
    model.head.weight += 1
    samples = Counting()
    build(model, samples, tmp_path)
    assert samples.made == [0]


def test_a_cut_file_is_built_again(tmp_path, model):
    build(model, Counting(), tmp_path)
    with open(tmp_path / "samples.bin", "r+b") as file:
        file.truncate(1000)
    samples = Counting()
    build(model, samples, tmp_path)
    assert len(samples.made) == 6


def test_processes_share_the_work(tmp_path, model):
    build(model, Counting(), tmp_path)
    whole = (tmp_path / "samples.bin").read_bytes()
    sample = Counting()[0]
    record = record_layout(sample, model.encode(sample["clip"]))
    (tmp_path / "done.bin").write_bytes(bytes(5))
    (tmp_path / "samples.bin").write_bytes(bytes(len(whole)))
    made = []
    for rank in (0, 1):
        samples = Counting()
        fill_share(tmp_path, record, samples, range(rank, 5, 2), model.encode, workers=0)
        made.append(samples.made)
    assert made == [[0, 2, 4], [1, 3]] and (tmp_path / "samples.bin").read_bytes() == whole
    with pytest.raises(OutputError, match="all machines see"):
        fill_share(tmp_path / "elsewhere", record, Counting(), range(5), model.encode, workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_disappears_is_one_line(tmp_path, model, workers):
    class Broken(Counting):
        def __getitem__(self, number):
            if number == 3:
                raise InputError("frames/7.jpg: cannot be read (gone)")
            return super().__getitem__(number)

    with pytest.raises(InputError) as error:
        build_cache(launch("cpu"), model, Broken(), CONFIG, tmp_path, workers)
    assert str(error.value) == "frames/7.jpg: cannot be read (gone)"
    assert np.fromfile(tmp_path / "done.bin", np.uint8).tolist() == [1, 1, 1, 0, 0]


def test_too_little_room_is_reported_before_the_work(tmp_path, model, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match="5 samples need 0.0 GB, and 0.0 GB are free"):
        build(model, Counting(), tmp_path)


def test_features_beyond_float16_are_refused(tmp_path, model, monkeypatch):
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda clip: tuple(1e6 * feature for feature in encode(clip)))
    with pytest.raises(SaliencyError, match="disc .* do not fit into float16"):
        build(model, Counting(), tmp_path)
