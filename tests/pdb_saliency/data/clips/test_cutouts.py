"""Cut-outs from files and stills, and pictures whose object is removed."""

import cv2
import numpy as np
import pytest

from helpers.painted import GREEN, RED, WHITE, still
from pdb_saliency.data.clips.background import fill
from pdb_saliency.data.clips.cutouts import cut_out, cutouts_of, largest_object, load_cutouts
from pdb_saliency.errors import InputError


def photograph(size=(120, 150)):
    """BGRA with colours like a photograph's, and transparent borders."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), (0, 0), 1.5)
    alpha = np.zeros(size, np.uint8)
    alpha[20:-20, 30:-30] = 255
    return np.dstack([noise, alpha])


def test_photographs_are_loaded_and_drawings_left_out(tmp_path):
    (tmp_path / "cartoon").mkdir()
    good = photograph()
    drawing = good.copy()
    drawing[..., :3] = (20, 200, 90)
    glass = good.copy()
    glass[..., 3] //= 2
    for name, image in {
        "good": good,
        "cartoon/good": good,
        "good_mirror": good,
        "small": cv2.resize(good, (60, 50)),
        "drawing": drawing,
        "glass": glass,
        "opaque": good[..., :3],
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    kept = load_cutouts(tmp_path)
    assert [cutout.name for cutout in kept] == ["good"]
    loaded = kept[0].load()
    assert loaded.shape == (80 + 6, 90 + 6, 4)  # Its bounding box and a margin.
    assert np.array_equal(loaded[3:-3, 3:-3], good[20:-20, 30:-30])
    assert not loaded[:3, :, 3].any() and not loaded[:, -3:, 3].any()
    assert {cutout.name for cutout in load_cutouts(tmp_path, skip=(), min_side=1)} == {
        "good",
        "cartoon/good",
        "good_mirror",
        "small",
    }


def test_a_broken_or_empty_folder_of_cutouts_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a folder"):
        load_cutouts(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"found none among 0 pictures"):
        load_cutouts(tmp_path)
    whole = cv2.imencode(".png", photograph())[1].tobytes()
    (tmp_path / "whole.png").write_bytes(whole)
    for broken in (
        whole[: len(whole) // 2],
        whole[:5000] + bytes(200) + whole[5200:],
        b"\x89PNG and then nothing IEND",
    ):
        (tmp_path / "torn.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"torn\.png: expected a PNG picture"):
            load_cutouts(tmp_path)


def test_cutouts_of_stills_stand_free(tmp_path):
    boxes = {
        "free": (60, 50, 40, 30),
        "cut": (0, 40, 60, 60),
        "huge": (5, 5, 190, 140),
        "tiny": (60, 50, 10, 8),
        "thin": (20, 50, 150, 15),
    }
    stills = [still(tmp_path, name, box=box) for name, box in boxes.items()]
    assert [cutout.name for cutout in cutouts_of(stills)] == ["free"]
    with pytest.raises(InputError, match="none among 4"):
        cutouts_of(stills[1:])
    stills[0].mask.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"free\.mask\.png"):
        cutouts_of(stills)


def test_a_cutout_is_the_largest_object_and_brings_no_colour_of_its_surroundings():
    image = np.full((100, 140, 3), GREEN, np.uint8)
    mask = np.zeros((100, 140), np.uint8)
    for x, y, width, height in ((20, 20, 60, 50), (110, 10, 12, 12)):
        image[y + 1 : y + height - 1, x + 1 : x + width - 1] = RED  # The mask is a pixel too wide.
        mask[y : y + height, x : x + width] = 255
    rgba = cut_out(image, largest_object(mask))
    assert rgba.shape == (56, 66, 4)
    assert (rgba[rgba[..., 3] > 0][:, :3] == RED).all()
    alpha = rgba[28, :, 3].astype(int)
    assert alpha[0] == 0 and alpha[33] == 255 and (np.diff(alpha[:33]) >= 0).all()
    assert 2 <= np.count_nonzero((alpha[:33] > 5) & (alpha[:33] < 250)) <= 5
    assert np.abs(np.argmax(alpha >= 128) - 4) <= 1


# --- The picture without its object.


def test_a_hole_is_filled_like_its_surroundings():
    rows, columns = np.mgrid[:150, :200]
    image = np.stack([columns, rows + 50, 255 - columns], axis=-1).astype(np.uint8)
    mask = np.zeros((150, 200), np.uint8)
    cv2.circle(mask, (90, 70), 25, 255, -1)
    broken = image.copy()
    broken[mask > 0] = WHITE
    filled = fill(broken, mask)
    far = cv2.dilate(mask, np.ones((3, 3)), iterations=5) == 0
    assert np.array_equal(filled[far], image[far])
    assert np.abs(filled.astype(int) - image)[mask > 0].mean() < 8
    assert np.array_equal(fill(image, np.zeros_like(mask)), image)
    assert np.array_equal(fill(image, np.full_like(mask, 255)), image)  # Nothing to fill it with.


def test_the_texture_around_a_hole_goes_on_in_it():
    rng = np.random.default_rng(0)
    image = rng.normal(128, 30, (150, 200, 3)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((150, 200), np.uint8)
    mask[40:90, 60:110] = 255
    filled = fill(np.where(mask[:, :, None] > 0, np.uint8(0), image), mask)
    assert filled[mask > 0].std() == pytest.approx(30, rel=0.25)
    assert filled[mask > 0].mean() == pytest.approx(128, abs=8)
