"""Smooth paths, the moving camera, and clips of stills that it sees."""

import cv2
import numpy as np
import pytest

from pdb_saliency.data.clips.camera import Camera, CameraClips, transform
from pdb_saliency.data.clips.paths import motion_blur, random_path
from pdb_saliency.data.clips.settings import CameraSettings
from pdb_saliency.data.sets.items import Still
from pdb_saliency.errors import InputError


def disc_still(folder, size=(90, 120), name="disc", centre=None, radius=None):
    """A still in white on black, whose picture equals its mask."""
    height, width = size
    picture = np.zeros((height, width, 3), np.uint8)
    centre = centre or (width // 2, height // 2)
    cv2.circle(picture, centre, radius or max(min(size) // 4, 1), (255, 255, 255), -1)
    image, mask = folder / f"{name}.image.png", folder / f"{name}.mask.png"
    cv2.imwrite(str(image), picture)
    cv2.imwrite(str(mask), picture[:, :, 0])
    return Still(name, image, mask)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("length", [2, 5, 12])
def test_a_path_has_the_speed_asked_for_and_does_not_jump(dimensions, length):
    for seed in range(50):
        path = random_path(np.random.default_rng(seed), length, 3.0, dimensions)
        fine = np.array([path(t) for t in np.arange(0, length - 1 + 0.01, 0.1)])
        steps = np.linalg.norm(np.diff(fine[::10], axis=0), axis=1)
        assert steps.mean() == pytest.approx(3.0)
        # It never moves at more than three times its mean speed, and it starts at 0.
        assert np.linalg.norm(np.diff(fine, axis=0), axis=1).max() < 0.9
        assert np.allclose(path(0), 0)


def test_blur_spreads_along_the_motion_and_nowhere_else():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = motion_blur(point, np.array([8.0, 0.0]))[:, :, 0].astype(float)
    rows, columns = np.nonzero(spread)
    assert set(rows) == {20}
    assert columns.min() == 16 and columns.max() == 24
    assert spread.sum() == pytest.approx(255, abs=8)
    far = motion_blur(point, np.array([0.0, 16.0]))[:, :, 0].astype(float)
    rows, columns = np.nonzero(far)
    assert set(columns) == {20}
    assert (far * np.arange(41)[:, None]).sum() / far.sum() == pytest.approx(20, abs=0.01)
    assert rows.max() - rows.min() > 10
    assert motion_blur(point, np.array([0.3, 0.2])) is point


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (33, 17), (300, 400), (401, 257)])
@pytest.mark.parametrize("length", [1, 5, 12])
def test_no_frame_shows_what_lies_beyond_the_picture(size, length):
    wild = CameraSettings(speed=(0.05, 0.5), zoom=0.1, rotation=10, tilt=0.3, shake=0.02, rest=0.0)
    height, width = size
    for settings in (CameraSettings(), wild):
        for seed in range(15):
            camera = Camera(np.random.default_rng(seed), length, size, settings)
            rows, columns = camera.frame
            corners = np.array([[0, 0], [columns - 1, 0], [columns - 1, rows - 1], [0, rows - 1]], float)
            seen = np.concatenate([transform(camera.view(t), corners) for t in range(length)])
            assert seen.min() >= -1e-6
            assert (seen <= np.array([width - 1, height - 1]) + 1e-6).all()


def test_a_frame_takes_its_pixels_from_where_the_camera_says():
    """On a picture whose colours are its coordinates."""
    rows, columns = np.mgrid[:200, :250].astype(np.uint8)
    picture = cv2.merge([columns, rows, np.zeros_like(rows)])
    camera = Camera(np.random.default_rng(3), 5, (200, 250), CameraSettings(rest=0.0))
    moved = 0.0
    for time in range(5):
        frame = camera.warp(picture, time)
        y, x = np.mgrid[: camera.frame[0], : camera.frame[1]]
        expected = transform(camera.view(time), np.stack([x, y], axis=-1).astype(float))
        assert np.abs(frame[:, :, :2] - expected).max() <= 1
        moved = max(moved, np.abs(frame.astype(int) - camera.warp(picture, 0)).max())
    assert moved > 3
    assert 0.6 - 1e-6 <= camera.pixel(2) <= 1.1


def test_a_camera_at_rest_is_at_rest(tmp_path):
    settings = CameraSettings(rest=1.0, shake=0.0)
    clip = CameraClips([disc_still(tmp_path)], settings).clip(np.random.default_rng(0), 5)
    assert all(np.array_equal(frame, clip.frames[0]) for frame in clip.frames)


@pytest.mark.parametrize("length", [1, 5, 12])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 91), (300, 401)])
def test_masks_are_binary_and_move_with_the_pixels(tmp_path, size, length):
    clips = CameraClips([disc_still(tmp_path, size)], CameraSettings(side=200))
    edge = np.ones((3, 3), np.uint8)
    for seed in range(6):
        clip = clips.clip(np.random.default_rng(seed), length)
        assert len(clip.frames) == len(clip.masks) == length
        for frame, mask in zip(clip.frames, clip.masks):
            assert frame.dtype == mask.dtype == np.uint8
            assert frame.shape == (*mask.shape, 3) and max(mask.shape) <= 200
            assert set(np.unique(mask)) <= {0, 255}
            if min(size) > 30:  # Anything smaller is nothing but edge.
                # Motion blur extends over ten pixels, and at the frame's border it cannot see what lies outside.
                light, far = frame[:, :, 0], {"iterations": 12, "borderType": cv2.BORDER_CONSTANT}
                assert light[cv2.dilate(mask, edge, **far, borderValue=255) == 0].max(initial=0) == 0
                assert light[cv2.erode(mask, edge, **far, borderValue=0) == 255].min(initial=255) == 255


def test_without_exposure_time_the_mask_fits_to_the_pixel(tmp_path):
    clips = CameraClips([disc_still(tmp_path, (150, 200))], CameraSettings(shutter=0.0))
    edge = np.ones((3, 3), np.uint8)
    for seed in range(20):
        clip = clips.clip(np.random.default_rng(seed), 5)
        for frame, mask in zip(clip.frames, clip.masks):
            bright = np.where(frame[:, :, 0] >= 128, np.uint8(255), np.uint8(0))
            assert not (bright & ~cv2.dilate(mask, edge)).any()
            assert not (cv2.erode(mask, edge) & ~bright).any()


def test_the_object_is_kept_in_sight(tmp_path):
    still = disc_still(tmp_path, (200, 300), centre=(40, 40), radius=30)
    clips = CameraClips([still], CameraSettings(view=(0.6, 0.6)))
    shown = [np.mean([mask.any() for mask in clips.clip(np.random.default_rng(seed), 5).masks]) for seed in range(40)]
    assert np.mean(shown) > 0.9


def test_a_seed_gives_the_same_clip(tmp_path):
    stills = [disc_still(tmp_path, name=f"{radius}", radius=radius) for radius in (10, 20, 30)]
    first, again, other = (CameraClips(stills).clip(np.random.default_rng(seed), 5) for seed in (4, 4, 5))
    assert first.name == again.name
    assert all(np.array_equal(a, b) for a, b in zip(first.frames + first.masks, again.frames + again.masks))
    assert not all(np.array_equal(a, b) for a, b in zip(first.masks, other.masks))


def test_large_pictures_are_worked_on_small(tmp_path):
    clip = CameraClips([disc_still(tmp_path, (900, 1200))], CameraSettings(side=96)).clip(np.random.default_rng(0), 3)
    assert clip.masks[0].shape == (72, 96)
    assert 0.02 < np.mean(clip.masks[0]) / 255 < 0.6


def test_a_mask_of_another_size_and_no_stills_are_named(tmp_path):
    still = disc_still(tmp_path)
    cv2.imwrite(str(still.mask), np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"disc\.mask\.png.*120x90.*9x9"):
        CameraClips([still]).clip(np.random.default_rng(0), 5)
    with pytest.raises(InputError, match="at least one still"):
        CameraClips([])
