"""Augmentation: pictures and masks move together, alike in all frames of a clip, and objects stay in sight."""

import dataclasses

import cv2
import numpy as np
import pytest

from pdb_saliency.data.augment import MODERN, PAPER, Augmentation
from pdb_saliency.data.clip import TrainingClip

TRIALS = range(60)
BOTH = pytest.mark.parametrize("augmentation", [PAPER, MODERN], ids=["paper", "modern"])


def blob(rng, height, width):
    """A mask with one ellipse of any size, down to a pixel."""
    mask = np.zeros((height, width), np.uint8)
    centre = int(rng.integers(width)), int(rng.integers(height))
    axes = int(rng.integers(0, width // 3)), int(rng.integers(0, height // 3))
    return cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)


def painted_clip(rng, annotated=(True, False, True)):
    """Frames whose red channel is their mask, even if the clip has none; the green one shows every pixel's place."""
    height, width = (int(size) for size in rng.integers(20, 90, 2))
    place = np.arange(height * width).reshape(height, width)
    masks = [blob(rng, height, width) for _ in annotated]
    frames = [np.dstack([place % 251, place % 255, mask]).astype(np.uint8) for mask in masks]
    return TrainingClip("painted", frames, [mask if has else None for mask, has in zip(masks, annotated)])


@BOTH
def test_masks_move_with_their_pictures(augmentation):
    for seed in TRIALS:
        rng = np.random.default_rng(seed)
        moved = augmentation.move(painted_clip(rng), rng)
        for frame, mask in zip(moved.frames, moved.masks):
            assert mask is None or np.array_equal(frame[..., 2], mask)
        # The background's pattern, which is independent of the masks, shows that all frames were moved alike.
        assert all(np.array_equal(frame[..., :2], moved.frames[0][..., :2]) for frame in moved.frames)
        assert [mask is None for mask in moved.masks] == [False, True, False]


@BOTH
def test_objects_stay_in_sight(augmentation):
    for seed in TRIALS:
        rng = np.random.default_rng(seed)
        clip = painted_clip(rng)
        moved = augmentation.move(clip, rng)
        before, after = ([np.count_nonzero(mask) for mask in c.masks if mask is not None] for c in (clip, moved))
        assert all(after) and sum(after) >= augmentation.keep * sum(before)


def test_an_object_at_the_border_is_not_cut_off():
    mask = np.zeros((40, 60), np.uint8)
    mask[0, 0] = mask[39, 59] = 255
    clip = TrainingClip("corners", [np.dstack([mask] * 3)], [mask])
    for seed in TRIALS:
        moved = PAPER.move(clip, np.random.default_rng(seed))
        assert moved.masks[0].size == mask.size and np.count_nonzero(moved.masks[0]) == 2


@BOTH
def test_the_clip_itself_stays_as_it_is(augmentation):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clip = painted_clip(rng)
        copies = [frame.copy() for frame in clip.frames], [mask if mask is None else mask.copy() for mask in clip.masks]
        augmentation(clip, rng)
        assert all(map(np.array_equal, clip.frames, copies[0]))
        assert all(a is b or np.array_equal(a, b) for a, b in zip(clip.masks, copies[1]))


@BOTH
def test_the_same_generator_gives_the_same_clip(augmentation):
    clip = painted_clip(np.random.default_rng(5))
    first, second, other = (augmentation(clip, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(map(np.array_equal, first.frames, second.frames))
    assert not all(map(np.array_equal, first.frames, other.frames))


def views(augmentation, seeds=200):
    """The source pixels of augmented pictures: (rows, columns) of each result."""
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    clip = TrainingClip("places", [np.dstack([rows, columns, rows])], [None])
    for seed in range(seeds):
        frame = augmentation.move(clip, np.random.default_rng(seed)).frames[0].astype(int)
        yield frame[..., 0], frame[..., 1]


def test_the_papers_mirror_and_rotations_all_occur_and_nothing_else():
    seen = set()
    for rows, columns in views(PAPER):
        down, right = (
            (rows[-1, 0] - rows[0, 0], columns[-1, 0] - columns[0, 0]),
            (
                rows[0, -1] - rows[0, 0],
                columns[0, -1] - columns[0, 0],
            ),
        )
        seen.add((*np.sign(down), *np.sign(right)))
        # Each step down or right leads to the next pixel: nothing is stretched.
        steps = np.abs(np.diff(rows, axis=0)) + np.abs(np.diff(columns, axis=0))
        assert (steps == 1).all()
    assert len(seen) == 8


def test_the_papers_crop_takes_slices_of_every_border():
    lost = np.array(
        [(rows.min(), 99 - rows.max(), columns.min(), 119 - columns.max()) for rows, columns in views(PAPER)]
    )
    assert (lost.min(0) == 0).all() and (lost.max(0) <= (10, 10, 12, 12)).all() and (lost.max(0) >= 8).all()
    assert all(np.unique(column).size > 5 for column in lost.T)  # Each border is drawn independently.
    assert np.abs(np.corrcoef(lost.T) - np.eye(4)).max() < 0.3


def test_the_modern_crop_covers_its_range():
    sizes = np.array([rows.shape for rows, _ in views(MODERN)])
    areas, ratios = sizes.prod(1) / 12000, sizes[:, 1] / sizes[:, 0] / 1.2
    assert 0.34 < areas.min() < 0.45 and 2.2 < areas.max() < 2.52
    assert 0.74 < ratios.min() < 0.85 and 1.2 < ratios.max() < 1.35


def test_a_crop_larger_than_the_frame_reflects_it_and_its_mask():
    larger = Augmentation(mirror=0.0, scale=(2.0, 2.5))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.where(picture[:, :, 0] > 200, np.uint8(255), np.uint8(0))
    tops = set()
    for seed in range(50):
        moved = larger.move(TrainingClip("one", [picture], [mask]), np.random.default_rng(seed))
        frame, moved_mask = moved.frames[0], moved.masks[0]
        assert 2 * 40 * 60 * 0.97 < moved_mask.size < 2.5 * 40 * 60 * 1.03 and frame.shape[:2] == moved_mask.shape
        assert np.array_equal(moved_mask > 0, frame[:, :, 0] > 200)
        whole = np.lib.stride_tricks.sliding_window_view(frame[:, :, 0], (40, 60))
        (top, left), *more = np.argwhere((whole == picture[:, :, 0]).all((2, 3)))
        assert not more
        if top:
            assert np.array_equal(frame[top - 1, left : left + 60], picture[1])
        tops.add(top)
    assert len(tops) > 5


def test_colours_change_alike_in_all_frames():
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 190, (30, 40, 3), np.uint8)
    clip = TrainingClip("one", [picture, picture.copy(), picture], [None] * 3)
    for seed in range(30):
        frames = dataclasses.replace(MODERN, noise=0.0).recolour(clip, np.random.default_rng(seed)).frames
        assert np.array_equal(frames[0], frames[1]) and frames[0] is frames[2]
        assert not np.array_equal(frames[0], picture)


def test_hue_and_saturation_leave_grey_alone():
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    colour = np.zeros((8, 8, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    augmentation = Augmentation(saturation=0.5, hue=60)
    for seed in range(20):
        grey = augmentation.recolour(TrainingClip("grey", [ramp], [None]), np.random.default_rng(seed)).frames[0]
        assert np.abs(grey.astype(int) - ramp).max() <= 1
        changed = augmentation.recolour(TrainingClip("blue", [colour], [None]), np.random.default_rng(seed)).frames[0]
        assert np.abs(changed[0, 0].astype(int) - colour[0, 0]).max() > 2


@pytest.mark.parametrize("what, range_of", [("blur", "blur_sigma"), ("jpeg", "jpeg_quality"), ("noise", "noise_sigma")])
def test_disturbances_come_when_asked_for(what, range_of):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 1)
    mask = blob(rng, 64, 64)
    clip = TrainingClip("one", [picture, picture], [mask, None])
    mild, strong = {
        "blur_sigma": ((0.5, 0.5), (3, 3)),
        "jpeg_quality": ((95, 95), (10, 10)),
        "noise_sigma": ((2, 2), (20, 20)),
    }[range_of]
    off = Augmentation().recolour(clip, rng)
    assert off.frames[0] is picture
    errors = []
    for strength in (mild, strong):
        changed = Augmentation(**{what: 1.0, range_of: strength}).recolour(clip, rng)
        assert changed.masks[0] is mask and changed.frames[0].dtype == np.uint8
        errors.append(np.abs(changed.frames[0].astype(float) - picture).mean())
        assert np.array_equal(*changed.frames) == (what != "noise")  # A sensor's noise differs in each frame.
    assert 0 < errors[0] < errors[1] / 2
