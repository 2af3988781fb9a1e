"""Cut-outs, and the clips in which they move over another picture."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from helpers.painted import BLUE, RED, WHITE, black, cutout, picture, still
from helpers.paths import shared_path
from pdb_saliency.data.clips.composite import CutoutClips
from pdb_saliency.data.clips.cutouts import cutouts_of
from pdb_saliency.data.clips.settings import CameraSettings, CutoutSettings
from pdb_saliency.data.sets.items import Still
from pdb_saliency.errors import InputError

# One mover on a scene at rest; nothing changes colours, so that things are recognised by theirs.
PLAIN = CutoutSettings(
    camera=CameraSettings(side=200, rest=0.0),
    still_scene=0.0,
    second_mover=0.0,
    own_moves=0.0,
    own_removed=0.0,
    distractors=0.0,
    twin=0.0,
    area=(0.02, 0.05),
    occluder=0.0,
    own_in_front=0.0,
    sway=0.0,
    shadow=0.0,
    match=0.0,
    grain=0.0,
    quality=100,
)


def solidity(mask):
    """The share of its convex hull that a mask covers: near 1 for a whole ellipse."""
    return np.count_nonzero(mask) / max(cv2.contourArea(cv2.convexHull(cv2.findNonZero(mask))), 1)


def centroid(mask):
    return np.array(np.nonzero(mask)).mean(axis=1)


# --- The labels.


@pytest.mark.parametrize("length", [5, 12])
def test_the_mask_is_the_mover_to_the_pixel(tmp_path, length):
    """White on black: a half-covered pixel has half the brightness, also with blur and deformation."""
    clips = CutoutClips([cutout(tmp_path, "white", WHITE)], [black(tmp_path)], replace(PLAIN, wobble=0.1, leaves=0.5))
    for seed in range(20):
        clip = clips.clip(np.random.default_rng(seed), length)
        assert len(clip.frames) == len(clip.masks) == length
        for frame, mask in zip(clip.frames, clip.masks):
            assert frame.dtype == mask.dtype == np.uint8 and frame.shape == (*mask.shape, 3)
            assert np.array_equal(mask, np.where(frame[:, :, 0] >= 128, 255, 0))


@pytest.mark.slow
def test_what_rests_is_never_labelled_and_hides_what_moves_behind_it(tmp_path):
    settings = replace(PLAIN, distractors=1.0, area=(0.1, 0.2), leaves=0.0)
    colours = {"red": 2, "green": 1, "blue": 0}
    cutouts = [cutout(tmp_path, name, np.roll((255, 0, 0), channel).tolist()) for name, channel in colours.items()]
    clips = CutoutClips(cutouts, [black(tmp_path)], settings)
    seen = hidden = 0
    for seed in range(60):
        clip = clips.clip(np.random.default_rng(seed), 5)
        _, mover, *resting = (part.split(" ")[0] for part in clip.name.split(" + "))
        if mover in resting:
            continue
        seen += 1
        for frame, mask in zip(clip.frames, clip.masks):
            # The mover's colour channel and its mask are composed alike, layer by layer.
            assert np.array_equal(mask, np.where(frame[:, :, colours[mover]] >= 128, 255, 0))
            others = np.delete(frame, colours[mover], axis=2).max(axis=2)
            assert not (mask[others >= 130]).any()
            hidden += mask.any() and solidity(mask) < 0.9
    assert seen >= 8 and hidden >= 3


@pytest.mark.slow
def test_the_mover_moves_through_the_scene_and_distractors_do_not(tmp_path):
    """On a ramp, where the colour of a pixel shows its place in the scene."""
    rows, columns = np.mgrid[:200, :250].astype(np.uint8)
    ramp = picture(tmp_path, "ramp.png", cv2.merge([columns, rows, np.zeros_like(rows)]))
    camera = CameraSettings(
        side=250, rest=0.0, zoom=0.0, rotation=0.0, tilt=0.0, shake=0.0, shutter=0.0, view=(0.8, 0.9)
    )
    settings = replace(PLAIN, camera=camera, distractors=1.0, most_distractors=1, parallax=0.0, leaves=0.0, wobble=0.0)
    clips = CutoutClips([cutout(tmp_path, "red", RED)], [ramp], settings)
    compared = 0
    for seed in range(60):
        clip = clips.clip(np.random.default_rng(seed), 5)
        red = [frame[:, :, 2] >= 128 for frame in clip.frames]
        rest = [red_now & (mask == 0) for red_now, mask in zip(red, clip.masks)]
        counts = np.array([[np.count_nonzero(mask), np.count_nonzero(other)] for mask, other in zip(clip.masks, rest)])
        # As long as both keep their size, neither hides the other.
        if counts.min() < 300 or (np.ptp(counts, axis=0) > 0.04 * counts.mean(axis=0)).any():
            continue
        compared += 1
        clear = ~(cv2.dilate((red[0] | red[-1]).astype(np.uint8), np.ones((5, 5))) > 0)
        scene = (clip.frames[-1].astype(float) - clip.frames[0])[clear].mean(axis=0)[[1, 0]]
        scale = np.diff(clip.frames[0][:, :, 0].astype(float), axis=1)[clear[:, 1:] & clear[:, :-1]].mean()
        camera_shift = -scene / scale  # Of a point of the scene, in pixels of the frame.
        mover, other = (centroid(parts[-1]) - centroid(parts[0]) for parts in (clip.masks, rest))
        assert np.abs(other - camera_shift).max() < 0.7
        assert np.abs(mover - camera_shift).max() > 1.0 or swings_back(clip.masks, camera_shift)
    assert compared >= 10


def swings_back(masks, camera_shift):
    """Whether something that ends near where it began has been elsewhere in between."""
    centres = np.array([centroid(mask) - i / 4 * camera_shift for i, mask in enumerate(masks)])
    return np.abs(centres - centres[0]).max() > 0.7


def test_the_backgrounds_own_object_is_background_beside_a_mover(tmp_path):
    settings = replace(PLAIN, own_in_front=0.5)
    clips = CutoutClips([cutout(tmp_path, "red", RED)], [still(tmp_path)], settings)
    own = 0
    for seed in range(15):
        clip = clips.clip(np.random.default_rng(seed), 5)
        for frame, mask in zip(clip.frames, clip.masks):
            assert np.array_equal(mask, np.where(frame[:, :, 2] >= 128, 255, 0))
            own += np.count_nonzero(frame[:, :, 1] >= 128)
    assert own > 1000


def test_the_backgrounds_own_object_can_be_the_mover(tmp_path):
    """It leaves no copy of itself behind and moves through the scene; in some frame it is where it was in the still."""
    camera = CameraSettings(side=200, rest=1.0, shake=0.0, view=(1.0, 1.0))
    settings = replace(PLAIN, camera=camera, own_moves=1.0, tracked=0.0, wobble=0.0, speed=(0.03, 0.05))
    scene = still(tmp_path)
    clips = CutoutClips([cutout(tmp_path, "red", RED)], [scene], settings)
    for seed in range(10):
        clip = clips.clip(np.random.default_rng(seed), 5)
        assert "its own object (moves)" in clip.name
        places = np.array([centroid(mask) for mask in clip.masks])
        assert np.ptp(places, axis=0).max() > 5
        assert np.abs(places - [64.5, 79.5]).max(axis=1).min() < 1
        for frame, mask in zip(clip.frames, clip.masks):
            assert np.array_equal(mask, np.where(frame[:, :, 1] >= 128, 255, 0))
            left = cv2.dilate(mask, np.ones((3, 3)), iterations=6) == 0  # Motion blur extends over a few pixels.
            assert frame[left].max() < 40


def test_where_nothing_moves_all_that_is_salient_is_labelled(tmp_path):
    settings = replace(PLAIN, still_scene=1.0, distractors=1.0)
    clips = CutoutClips([cutout(tmp_path, "white", WHITE)], [still(tmp_path, colour=WHITE)], settings)
    edge = np.ones((3, 3))
    for seed in range(10):
        clip = clips.clip(np.random.default_rng(seed), 5)
        assert "(moves)" not in clip.name and "(rests)" in clip.name
        for frame, mask in zip(clip.frames, clip.masks):
            inside = cv2.erode(mask, edge, iterations=12, borderType=cv2.BORDER_CONSTANT, borderValue=0)
            outside = cv2.dilate(mask, edge, iterations=12, borderType=cv2.BORDER_CONSTANT, borderValue=255)
            assert (frame[:, :, 0][inside == 255] == 255).all() and (frame[:, :, 0][outside == 0] == 0).all()


def test_a_clip_whose_mover_is_hidden_is_made_anew(tmp_path):
    """The background's own object covers a third of the picture and stands in front of the mover."""
    settings = replace(PLAIN, own_in_front=1.0, own_area=1.0, area=(0.02, 0.03))
    clips = CutoutClips([cutout(tmp_path, "red", RED)], [still(tmp_path, box=(40, 30, 120, 90))], settings)
    assert np.mean([np.mean(clips.clip(np.random.default_rng(seed), 2).masks) > 0 for seed in range(40)]) >= 0.8


def test_a_single_frame_is_a_still_scene(tmp_path):
    clips = CutoutClips([cutout(tmp_path, "white", WHITE)], [black(tmp_path)], PLAIN)
    clip = clips.clip(np.random.default_rng(0), 1)
    assert "(moves)" not in clip.name and len(clip.frames) == 1
    assert np.array_equal(clip.masks[0], np.where(clip.frames[0][:, :, 0] >= 128, 255, 0)) and clip.masks[0].any()


def test_shadows_scenery_and_stirring_water_are_background(tmp_path):
    """On white: the mover is red, and everything dark, a shadow or a pole, is not labelled."""
    settings = replace(PLAIN, shadow=1.0, occluder=1.0, sway=1.0)
    ground = picture(tmp_path, "white.png", np.full((150, 200, 3), 255, np.uint8))
    clips = CutoutClips([cutout(tmp_path, "red", RED)], [ground], settings)
    dark = 0
    for seed in range(10):
        clip = clips.clip(np.random.default_rng(seed), 5)
        for frame, mask in zip(clip.frames, clip.masks):
            blue, green, red = cv2.split(frame.astype(int))
            assert (red - blue)[mask == 255].min(initial=255) > 60
            grey = (np.abs(red - blue) < 10) & (green < 230)
            assert not mask[grey].any()
            dark += np.count_nonzero(grey)
    assert dark > 1000


# --- Any clip.


@pytest.mark.slow(but=["size0-1", "size0-5", "size1-1", "size1-5", "size2-1", "size2-5", "size3-1", "size3-5"])
@pytest.mark.parametrize("length", [1, 5, 12])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 91), (151, 200)])
def test_any_size_and_length_with_all_effects(tmp_path, size, length):
    height, width = size
    rng = np.random.default_rng(0)
    scene = still(tmp_path, size=size, box=(width // 4, height // 4, max(width // 2, 1), max(height // 2, 1)))
    cv2.imwrite(str(scene.image), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    cutouts = [cutout(tmp_path, "red", RED), cutout(tmp_path, "dot", BLUE, size=(7, 7))]
    settings = CutoutSettings(camera=CameraSettings(side=96), sway=0.5, occluder=0.5, own_moves=0.4)
    clips = CutoutClips(cutouts, [scene, black(tmp_path, size)], settings)
    for seed in range(12):
        clip = clips.clip(np.random.default_rng(seed), length)
        assert len(clip.frames) == len(clip.masks) == length
        for frame, mask in zip(clip.frames, clip.masks):
            assert frame.dtype == mask.dtype == np.uint8 and frame.shape == (*mask.shape, 3) and max(mask.shape) <= 96
            assert set(np.unique(mask)) <= {0, 255}


def test_a_seed_gives_the_same_clip(tmp_path):
    cutouts = [cutout(tmp_path, "red", RED), cutout(tmp_path, "blue", BLUE)]
    for seed in range(5):
        first, again = (CutoutClips(cutouts, [still(tmp_path)]).clip(np.random.default_rng(seed), 5) for _ in range(2))
        assert first.name == again.name
        assert all(np.array_equal(a, b) for a, b in zip(first.frames + first.masks, again.frames + again.masks))
    other = CutoutClips(cutouts, [still(tmp_path)]).clip(np.random.default_rng(99), 5)
    assert not all(np.array_equal(a, b) for a, b in zip(first.frames, other.frames))


@pytest.mark.slow
def test_the_mover_is_nearly_always_in_sight_and_alone_labelled_on_real_pictures():
    folder = shared_path("data/ecssd1000")
    paths = sorted((folder / "images").iterdir())[:60]
    stills = [Still(path.stem, path, folder / "masks" / f"{path.stem}.png") for path in paths]
    cutouts = cutouts_of(stills)
    clips = CutoutClips(cutouts, stills, CutoutSettings(still_scene=0.0))
    shares = [np.mean(clips.clip(np.random.default_rng(seed), 3).masks) / 255 for seed in range(30)]
    assert np.mean(np.array(shares) > 0.004) > 0.9
    assert 0.02 < np.mean(shares) < 0.3


# --- What cannot be read.


def test_what_cannot_be_read_is_named(tmp_path):
    red, ground = cutout(tmp_path, "red", RED), black(tmp_path)
    clips = CutoutClips([red], [ground], PLAIN)
    data = red.path.read_bytes()
    for broken in (data[: len(data) // 2], data[:60] + bytes(40) + data[100:], b""):
        red.path.write_bytes(broken)
        with pytest.raises(InputError, match=r"red\.png"):
            clips.clip(np.random.default_rng(0), 5)
    red.path.write_bytes(data)
    ground.unlink()
    with pytest.raises(InputError, match=r"black.*\.png"):
        clips.clip(np.random.default_rng(0), 5)
    with pytest.raises(InputError, match="one cut-out and one background, got 0 and 1"):
        CutoutClips([], [ground])
