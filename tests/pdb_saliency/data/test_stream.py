"""Clips of stills and videos, and the stream of training samples made of them."""

import multiprocessing
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers import dataset_folders as folders
from helpers.dataset_folders import box_mask, picture, save
from helpers.paths import shared_path
from pdb_saliency.data.augment import MODERN, PAPER
from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.clips.recorded import StillCopies, VideoClips
from pdb_saliency.data.sets.catalog import find_datasets, open_dataset
from pdb_saliency.data.sets.items import Video
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.data.stream import SampleStream
from pdb_saliency.errors import InputError
from pdb_saliency.model.input import InputSpec
from pdb_saliency.training.loader import load_batches

SPEC = InputSpec(40, 56, bgr=False, mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0))


def stream(sources, weights=None, **options):
    options = {"length": 3, "seed": 1, "count": 8, "augmentation": None} | options
    return SampleStream(sources, weights or [1] * len(sources), SPEC, **options)


class OneClip:
    """A source that always returns the same clip."""

    def __init__(self, *frames, masks=None, name="one"):
        self.made = TrainingClip(name, list(frames), masks or [None] * len(frames))

    def clip(self, rng, length):
        return self.made


@pytest.fixture
def sources(tmp_path):
    folders.ecssd(tmp_path)
    folders.visal(tmp_path)
    return [StillCopies(open_dataset("ecssd", tmp_path).stills), VideoClips(open_dataset("visal", tmp_path).videos)]


def same(first, second):
    assert first["name"] == second["name"]
    assert all(torch.equal(first[key], second[key]) for key in ("clip", "mask", "valid"))


@pytest.mark.parametrize("augmentation", [None, PAPER, MODERN], ids=["none", "paper", "modern"])
def test_samples_have_their_form(sources, augmentation):
    samples = stream(sources, augmentation=augmentation, count=30)
    kinds = Counter()
    for number in range(30):
        sample = samples[number]
        assert sample["clip"].shape == (3, 3, 40, 56) and sample["clip"].dtype == torch.float32
        assert sample["mask"].shape == (3, 1, 40, 56) and sample["mask"].dtype == torch.float32
        assert sample["valid"].shape == (3,) and sample["valid"].dtype == torch.bool and sample["valid"].any()
        assert sample["mask"].unique().tolist() == [0.0, 1.0]
        assert (sample["mask"].amax((1, 2, 3)) > 0).tolist() == sample["valid"].tolist()
        kinds["boat" in sample["name"]] += 1
    assert kinds[True] > 5 and kinds[False] > 5


@pytest.mark.parametrize("augmentation", [PAPER, MODERN], ids=["paper", "modern"])
def test_samples_depend_on_seed_and_number_alone(sources, augmentation):
    first = [stream(sources, augmentation=augmentation)[number] for number in range(8)]
    again = stream(sources, augmentation=augmentation)
    for number in (5, 0, 7, 5):
        same(first[number], again[number])
    other = stream(sources, augmentation=augmentation, seed=2)
    assert sum(torch.equal(first[number]["clip"], other[number]["clip"]) for number in range(8)) == 0
    assert len({sample["clip"].sum().item() for sample in first}) > 5


def test_worker_processes_change_nothing(sources):
    samples = stream(sources, augmentation=MODERN)
    for workers in (0, 2):
        loaded = list(DataLoader(samples, batch_size=None, num_workers=workers))
        assert len(loaded) == 8
        for number, sample in enumerate(loaded):
            same(sample, samples[number])


def test_frames_are_what_prediction_would_see():
    frames = [picture(seed, 100, 75) for seed in range(3)]
    sample = stream([OneClip(*frames)])[0]
    assert torch.equal(sample["clip"], SPEC.prepare(frames))


@pytest.mark.parametrize("height, width", [(480, 854), (300, 400), (33, 47), (40, 56)])
def test_masks_lie_where_the_frames_show_them(height, width):
    """For a half-plane: the mask's border against where the resized picture crosses half, in pixels of the network."""
    for axis, size, small in ((0, width, SPEC.width), (1, height, SPEC.height)):
        offsets = []
        for edge in range(size // 4, size // 4 + 40 * max(size // 200, 1), max(size // 200, 1)):
            mask = np.zeros((height, width), np.uint8)
            (mask if axis == 0 else mask.T)[:, min(edge, size - 3) :] = 255
            sample = stream([OneClip(cv2.merge([mask] * 3), masks=[mask])], length=1)[0]
            grey = sample["clip"][0, 0] * SPEC.std[0] + SPEC.mean[0]
            shown = (grey > 127.5).float()
            marked = sample["mask"][0, 0]
            assert (shown - marked).abs().sum((0, 1)) <= (SPEC.height if axis == 0 else SPEC.width)
            offsets.append((shown.sum() - marked.sum()).item() / shown.numel() * small)
        assert abs(np.mean(offsets)) < 0.2  # Without half-pixel centres it would be near 0.5.


def test_what_is_not_annotated_is_not_valid():
    mask = box_mask()
    sample = stream([OneClip(picture(0), picture(1), picture(2), masks=[None, mask, None])])[0]
    assert sample["valid"].tolist() == [False, True, False]
    assert sample["mask"].sum((1, 2, 3)).gt(0).tolist() == [False, True, False]


def test_sources_are_drawn_by_weight():
    clips = [OneClip(picture(), name=name) for name in ("often", "never", "seldom")]
    samples = stream(clips, [3, 0, 1], length=1, count=400)
    names = Counter(samples[number]["name"] for number in range(400))
    assert set(names) == {"often", "seldom"} and 250 < names["often"] < 350


@pytest.mark.parametrize("weights", [[], [1], [1, -1], [0, 0], [1, float("nan")], [1, float("inf")]])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match="2 weights"):
        SampleStream([OneClip(picture())] * 2, weights, SPEC, length=1, seed=0, count=1, augmentation=None)


def test_the_stream_ends():
    samples = stream([OneClip(picture())], length=1)
    assert len(samples) == 8
    for number in (8, -1):
        with pytest.raises(IndexError):
            samples[number]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_became_unreadable_is_named(tmp_path, workers):
    folders.ecssd(tmp_path)
    stills = open_dataset("ecssd", tmp_path).stills[:1]
    samples = stream([StillCopies(stills)])
    samples[0]
    stills[0].mask.write_bytes(b"")
    with pytest.raises(InputError) as raised:
        list(load_batches(samples, [[number] for number in range(len(samples))], workers))
    message = str(raised.value)
    assert message.startswith(str(stills[0].mask)) and "\n" not in message
    assert not multiprocessing.active_children()  # Otherwise a program would wait for them when it exits.


def _objects(*levels):
    mask = np.zeros((20, 40), np.uint8)
    for index, level in enumerate(levels):
        mask[5:15, 4 + 12 * index : 12 + 12 * index] = level
    return mask


def _soft():
    return cv2.GaussianBlur(_objects(255), (0, 0), 2)


MASKS = {
    "white": (_objects(255), 80),
    "ones": (_objects(1), 80),
    "numbers": (_objects(1, 2, 3), 240),
    "dark and bright numbers": (_objects(255, 100, 30), 240),
    "white and gray edges": (_soft(), int((_soft() > 127).sum())),
    "16 bits, ones": (_objects(1).astype(np.uint16), 80),
    "16 bits, numbers": (_objects(1, 2, 255).astype(np.uint16), 240),
    "16 bits, white": (_objects(255).astype(np.uint16) * 257, 80),
    "16 bits, soft": (_soft().astype(np.uint16) * 257, int((_soft() > 127).sum())),
    "opaque": (cv2.merge([*[_objects(255)] * 3, np.full((20, 40), 255, np.uint8)]), 80),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_foreground_of_every_kind_of_mask(tmp_path, name):
    image, expected = MASKS[name]
    cv2.imwrite(str(tmp_path / "mask.png"), image)
    mask = read_mask([tmp_path / "mask.png"])
    assert np.count_nonzero(mask) == expected and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}


def test_a_still_becomes_copies(tmp_path):
    folders.ecssd(tmp_path)
    stills = open_dataset("ecssd", tmp_path).stills
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        clip = StillCopies(stills).clip(rng, 5)
        still = next(still for still in stills if still.name == clip.name)
        seen.add(clip.name)
        assert len(clip.frames) == len(clip.masks) == 5
        assert all(np.array_equal(frame, read_frame(still.image)) for frame in clip.frames)
        assert all(np.array_equal(mask, read_mask([still.mask])) for mask in clip.masks)
    assert seen == {still.name for still in stills}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Makes videos in which frame n has grey level 10 + 2 n, and a mask of the first n + 1 columns."""
    root = tmp_path_factory.mktemp("numbered")
    files = []
    for number in range(40):
        frame = save(root / f"{number}.png", np.full((8, 64, 3), 10 + 2 * number, np.uint8))
        mask = np.zeros((8, 64), np.uint8)
        mask[:, : number + 1] = 255
        files.append((frame, save(root / f"{number}_mask.png", mask)))

    def make(count, annotated, name="walk"):
        masks = tuple((files[number][1],) if number in annotated else () for number in range(count))
        return Video(name, tuple(frame for frame, _ in files[:count]), masks)

    return make


def numbers(clip):
    return [(int(frame[0, 0, 0]) - 10) // 2 for frame in clip.frames]


@pytest.mark.parametrize("count", [5, 6, 9, 17, 40])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_video_clips_sample_in_steps_and_show_an_annotated_frame(numbered, count, length):
    pattern = np.random.default_rng(count)
    for annotated in (
        {0},
        {count - 1},
        {count // 2},
        set(range(0, count, 4)),
        set(map(int, pattern.integers(count, size=3))),
    ):
        source = VideoClips([numbered(count, annotated)])
        rng = np.random.default_rng(0)
        for _ in range(25):
            clip = source.clip(rng, length)
            at = numbers(clip)
            assert len(at) == length and 0 <= min(at) and max(at) < count
            assert len(set(np.diff(at))) <= 1 and all(1 <= step <= 6 for step in np.diff(at))
            assert annotated & set(at)
            for number, mask in zip(at, clip.masks):
                assert (mask is not None) == (number in annotated)
                assert mask is None or np.count_nonzero(mask[0]) == number + 1


def test_all_steps_that_fit_occur(numbered):
    for count, most in ((40, 6), (13, 3), (5, 1)):
        source, rng = VideoClips([numbered(count, set(range(count)))]), np.random.default_rng(0)
        steps = Counter(int(np.diff(numbers(source.clip(rng, 5)))[0]) for _ in range(150))
        assert set(steps) == set(range(1, most + 1))
    assert min(Counter(steps).values()) > 0


def test_annotated_frames_are_equally_likely(numbered):
    """In any video and anywhere in it. With clips of one frame, that is the annotated frame itself."""
    source = VideoClips([numbered(40, {3, 20}, "two"), numbered(12, {0, 5, 11}, "three"), numbered(9, set(), "none")])
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(1000):
        clip = source.clip(rng, 1)
        seen[clip.name.split()[0], numbers(clip)[0]] += 1
    assert set(seen) == {("two", 3), ("two", 20), ("three", 0), ("three", 5), ("three", 11)}
    assert all(150 < times < 250 for times in seen.values())


def test_an_annotated_frame_may_be_anywhere_in_its_clip(numbered):
    source, rng = VideoClips([numbered(40, {20})]), np.random.default_rng(0)
    places = Counter(numbers(source.clip(rng, 5)).index(20) for _ in range(500))
    assert all(60 < places[place] < 140 for place in range(5))


@pytest.mark.parametrize(
    "count, expected", [(1, [0] * 5), (2, [0, 1, 0, 1, 0]), (3, [0, 1, 2, 1, 0]), (4, [0, 1, 2, 3, 2])]
)
def test_a_short_video_is_played_to_and_fro(numbered, count, expected):
    source = VideoClips([numbered(count, {count - 1})])
    assert numbers(source.clip(np.random.default_rng(0), 5)) == expected


def test_nothing_to_draw_from_is_refused(numbered):
    for make in (lambda: StillCopies([]), lambda: VideoClips([]), lambda: VideoClips([numbered(5, set())])):
        with pytest.raises(InputError, match="at least one"):
            make()


def test_a_frame_of_another_size_is_named(numbered, tmp_path):
    video = numbered(5, {0})
    odd = save(tmp_path / "odd.png", picture())
    source = VideoClips([Video("walk", (*video.frames[:4], odd), video.masks)])
    with pytest.raises(InputError, match=r"odd\.png: a frame of 64x8 pixels"):
        source.clip(np.random.default_rng(0), 5)


def test_real_sparse_video():
    (video,) = open_dataset(str(shared_path("data/ytobjects_part"))).videos
    samples = stream([VideoClips([video])], length=5, count=6, augmentation=MODERN)
    for number in range(6):
        sample = samples[number]
        assert 1 <= sample["valid"].sum() <= 5 and sample["mask"][sample["valid"]].sum() > 0


def test_every_real_still_set_makes_samples():
    root = shared_path("data")
    for dataset in find_datasets(root).values():
        if dataset.stills:
            sample = stream([StillCopies(dataset.stills)], augmentation=PAPER, count=2)[1]
            assert sample["valid"].all() and 0 < sample["mask"].mean() < 1
