"""Published and general layouts are found and read: which mask belongs to which picture, and what its foreground is."""

import re

import cv2
import numpy as np
import pytest

from helpers import dataset_folders as folders
from helpers.dataset_folders import box_mask, picture, save
from helpers.paths import shared_path
from pdb_saliency.data.sets.catalog import find_datasets, open_dataset
from pdb_saliency.data.sets.check import check_dataset
from pdb_saliency.data.sets.published import KNOWN
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.data.sets.survey import describe
from pdb_saliency.errors import InputError


@pytest.fixture
def root(tmp_path):
    for build in folders.ALL:
        build(tmp_path)
    return tmp_path


def test_every_published_layout_is_found(root):
    found = {name: describe(check_dataset(dataset)) for name, dataset in find_datasets(root).items()}
    assert found == {
        "msra10k": "3 stills",
        "dut-omron": "3 stills",
        "duts:train": "4 stills",
        "duts:test": "2 stills",
        "ecssd": "3 stills",
        "davis-2016:train": "2 videos of 24 frames, 24 annotated",
        "davis-2016:val": "1 video of 12 frames, 12 annotated",
        "davis-2017:train": "1 video of 6 frames, 6 annotated",
        "davis-2017:val": "1 video of 6 frames, 6 annotated",
        "fbms:train": "1 video of 30 frames, 3 annotated",
        "fbms:test": "2 videos of 38 frames, 6 annotated",
        "visal": "2 videos of 24 frames, 6 annotated",
        "segtrack-v2": "2 videos of 10 frames, 10 annotated",
    }
    for name, found_set in find_datasets(root).items():
        assert open_dataset(name, root) == found_set


def test_a_set_without_a_split_is_all_of_it(root):
    assert len(open_dataset("duts", root).stills) == 6
    assert [video.name for video in open_dataset("davis-2016", root).videos] == ["bear", "bus", "cows"]
    assert [video.name for video in open_dataset("fbms", root).videos] == ["bear01", "cars1", "tennis"]
    assert open_dataset("davis-2016:test", root).videos == open_dataset("davis-2016:val", root).videos


@pytest.mark.parametrize("build", folders.ALL)
def test_a_set_is_found_in_the_data_root_itself(tmp_path, build):
    build(tmp_path)
    (outer,) = tmp_path.iterdir() if build is not folders.fbms else [tmp_path]
    above, below = find_datasets(tmp_path), find_datasets(outer)
    assert above and above == below


def test_names_of_folders_may_differ_in_punctuation(tmp_path):
    folders.dut_omron(tmp_path)
    (tmp_path / "DUT-OMRON").rename(tmp_path / "dut_omron")
    assert len(open_dataset("dut-omron", tmp_path).stills) == 3


@pytest.mark.parametrize("name", KNOWN)
def test_a_missing_set_names_the_folders_that_were_expected(tmp_path, name):
    with pytest.raises(InputError) as error:
        open_dataset(name, tmp_path)
    message = str(error.value)
    assert str(tmp_path) in message and KNOWN[name].expected in message and "\n" not in message


@pytest.mark.parametrize(
    "name, expected",
    [
        ("nothing-of-that-name", "{root}/nothing-of-that-name or nothing-of-that-name"),
        ("ecssd:train", "ecssd has no splits"),
        ("duts:val", "splits train, test"),
        ("plain", "{root}/plain: expected a data set in a known layout"),
        ("plain:val", "split 'val'"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, name, expected):
    save(tmp_path / "plain/only.jpg", picture())
    with pytest.raises(InputError, match=re.escape(expected.format(root=tmp_path))):
        open_dataset(name, tmp_path)


def test_a_data_root_that_is_no_folder(tmp_path):
    for look in (lambda root: open_dataset("duts", root), find_datasets):
        with pytest.raises(InputError, match="none: no such folder"):
            look(tmp_path / "none")


def test_a_folder_is_opened_by_its_path(root, monkeypatch):
    assert open_dataset(str(root / "DAVIS") + ":train").name == "DAVIS:train"
    assert len(open_dataset(str(root / "DUTS")).stills) == 6
    monkeypatch.chdir(root)
    assert [video.name for video in open_dataset("ViSal").videos] == ["boat", "boat2"]


def test_davis_2016_and_2017_are_not_confused(tmp_path):
    folders.davis_2017(tmp_path, "DAVIS")
    with pytest.raises(InputError, match="ImageSets/480p"):
        open_dataset("davis-2016", tmp_path)
    (tmp_path / "DAVIS/DAVIS/ImageSets/2017/train.txt").unlink()
    (tmp_path / "DAVIS/DAVIS/ImageSets/2017/val.txt").unlink()
    with pytest.raises(InputError, match="davis-2017"):
        open_dataset("davis-2017", tmp_path)


def test_davis_lists_without_their_pictures(tmp_path):
    folders.davis_2016(tmp_path)
    (tmp_path / "DAVIS/Annotations").rename(tmp_path / "DAVIS/Masks")
    with pytest.raises(InputError, match="expected in .*Annotations/480p"):
        open_dataset("davis-2016:train", tmp_path)


def test_a_set_is_not_opened_in_part_unasked(tmp_path):
    folders.duts(tmp_path)
    (tmp_path / "DUTS/DUTS-TE/DUTS-TE-Mask").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="only duts:train is there; expected .*DUTS-TE"):
        open_dataset("duts", tmp_path)
    assert len(open_dataset("duts:train", tmp_path).stills) == 4


def test_frames_come_in_natural_order(tmp_path):
    for number in (1, 2, 10, 100):
        save(tmp_path / f"set/JPEGImages/walk/frame{number}.jpg", picture())
        save(tmp_path / f"set/Annotations/walk/frame{number}.png", box_mask())
    (video,) = open_dataset("set", tmp_path).videos
    assert [frame.stem for frame in video.frames] == ["frame1", "frame2", "frame10", "frame100"]
    assert [paths[0].stem for paths in video.masks] == ["frame1", "frame2", "frame10", "frame100"]


@pytest.mark.parametrize("images, masks", [("images", "masks"), ("Image", "GT"), ("imgs", "ground_truth_mask")])
def test_general_still_layouts(tmp_path, images, masks):
    folders.stills(tmp_path / "set" / images, tmp_path / "set" / masks)
    save(tmp_path / "set" / images / ".hidden.jpg", picture())
    assert describe(check_dataset(open_dataset("set", tmp_path))) == "3 stills"


def test_hidden_and_unrelated_folders_are_passed_over(tmp_path):
    folders.stills(tmp_path / "set/images", tmp_path / "set/masks")
    folders.stills(tmp_path / ".cache/images", tmp_path / ".cache/masks")
    save(tmp_path / "holiday/1.jpg", picture())
    (tmp_path / "notes.txt").write_text("")
    assert set(find_datasets(tmp_path)) == {"set"}


def test_a_mask_finds_its_frame_by_number(tmp_path):
    folders.fbms(tmp_path)
    bear, _, tennis = open_dataset("fbms", tmp_path).videos
    annotated = {frame.name: paths[0].name for frame, paths in zip(tennis.frames, tennis.masks) if paths}
    assert annotated == {f"tennis{number}.jpg": f"tennis_{number}.pgm" for number in (455, 464, 473)}
    annotated = {frame.name: paths[0].name for frame, paths in zip(bear.frames, bear.masks) if paths}
    assert annotated == {f"bear01_{number:04d}.jpg": f"bear01_{number:04d}_gt.ppm" for number in (1, 20, 30)}


def test_objects_merge(root):
    both = box_mask(2) | box_mask(20)
    for name in ("davis-2017:train", "fbms:train", "segtrack-v2"):
        video = open_dataset(name, root).videos[0]
        np.testing.assert_array_equal(read_mask(next(filter(None, video.masks))), both, err_msg=name)
    cars = open_dataset("fbms:test", root).videos[0]
    np.testing.assert_array_equal(read_mask(cars.masks[0]), both)
    bmx = open_dataset("segtrack-v2", root).videos[0]
    assert len(bmx.masks[0]) == 2


@pytest.mark.parametrize("level", [1, 38, 127, 200, 255])
def test_a_grey_mask_may_hold_numbers_of_objects(tmp_path, level):
    path = save(tmp_path / "mask.png", box_mask() // 255 * level)
    np.testing.assert_array_equal(read_mask([path]), box_mask())


@pytest.mark.parametrize("sequence, expected", [("marple7", (20, 80, 120)), ("marple2", (120,)), ("cars1", (80, 120))])
def test_fbms_levels(tmp_path, sequence, expected):
    levels = np.array([[0, 20, 80, 120]], np.uint8)
    path = save(tmp_path / sequence / "GroundTruth/1.pgm", levels)
    assert tuple(levels[read_mask([path]) > 0]) == expected


def regions(background, *objects):
    """Regions as FBMS draws them: two objects of these colours, BGR, on a background."""
    image = np.full((*box_mask().shape, 3), background, np.uint8)
    for left, colour in zip((2, 20), objects):
        image[box_mask(left) > 0] = colour
    return image


@pytest.mark.parametrize(
    "background, objects", [(255, (0, (0, 0, 255))), (255, ((10, 0, 0), 128)), (0, (255, (128, 0, 0))), (255, (0, 0))]
)
def test_colours_of_fbms_that_are_as_dark_or_bright_as_a_background(tmp_path, background, objects):
    path = save(tmp_path / "bear01/GroundTruth/bear01_0001_gt.ppm", regions(background, *objects))
    np.testing.assert_array_equal(read_mask([path]), box_mask(2) | box_mask(20))


@pytest.mark.parametrize(
    "suffix, scale, background, objects",
    [
        ("ppm", 255, (255, 0, 0), (0, 255)),
        ("ppm", 0xFF8000, (0, 128, 255), (0, 255)),
        ("pgm", 255, 255, (0, 85)),
        ("pgm", 0, 0, (255, 85)),
    ],
)
def test_the_definition_of_a_sequence_of_fbms_names_the_background(tmp_path, suffix, scale, background, objects):
    image = regions(background, *objects)
    path = save(tmp_path / f"bear01/GroundTruth/1.{suffix}", image if suffix == "ppm" else image[:, :, 0])
    lines = ["Total number of regions:", "3", "", "Scale of region 0:", str(scale), "", "Scale of region 1:", "7"]
    (path.parent / "bear01Def.dat").write_text("\n".join(lines))
    np.testing.assert_array_equal(read_mask([path]), box_mask(2) | box_mask(20))


def test_soft_and_compressed_masks_are_cut_at_half(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (40, 1))
    np.testing.assert_array_equal(read_mask([save(tmp_path / "soft.png", ramp)]), np.where(ramp > 127, 255, 0))
    large = np.kron(box_mask(), np.ones((7, 7), np.uint8))
    path = save(tmp_path / "mask.jpg", large)
    assert len(np.unique(read_frame(path))) > 2  # There is ringing; otherwise this would test nothing.
    np.testing.assert_array_equal(read_mask([path]), large)


@pytest.mark.parametrize("objects", [[(0, 0, 128), (0, 128, 0)], [(64, 0, 0), (64, 0, 0)], [38, 75]])
def test_objects_in_jpeg_are_distinguished_from_its_noise(tmp_path, objects):
    large = np.kron(box_mask(), np.ones((7, 7), np.uint8)) > 0
    picture = np.zeros((*large.shape, 3), np.uint8)
    picture[large], picture[:70][large[:70]] = objects
    mask = read_mask([save(tmp_path / "mask.jpg", picture)]) > 0
    kernel = np.ones((7, 7), np.uint8)  # Chroma is stored at half the size: colours run over borders.
    assert not mask[cv2.dilate(large.astype(np.uint8), kernel) == 0].any()
    assert mask[cv2.erode(large.astype(np.uint8), kernel) > 0].all()


def test_a_mask_of_another_size_is_refused(tmp_path):
    paths = [save(tmp_path / "a.png", box_mask()), save(tmp_path / "b.png", box_mask(height=30))]
    with pytest.raises(InputError, match=r"b\.png: a mask of 32x24 pixels is expected.*got 32x30"):
        read_mask(paths)
    with pytest.raises(InputError, match=r"a\.png: a mask of 5x4 pixels"):
        read_mask(paths[:1], (4, 5))


def test_two_pictures_of_one_name_are_refused(tmp_path):
    folders.stills(tmp_path / "set/images", tmp_path / "set/masks")
    save(tmp_path / "set/images/1.png", picture())
    with pytest.raises(InputError, match=r"1\.jpg and 1\.png are both called 1"):
        open_dataset("set", tmp_path)


REAL = {
    "ccp1004": "1003 stills",
    "davis16_train": "30 videos of 2079 frames, 2079 annotated",
    "davis_dev": "6 videos of 390 frames, 390 annotated",
    "dutomron54": "54 stills",
    "duts499": "499 stills",
    "ecssd1000": "1000 stills",
    "misc_stills15": "15 stills",
    "segtrack_part": "1 video of 21 frames, 21 annotated",
    "weizmann_horse318": "318 stills",
    "ytobjects_part": "1 video of 61 frames, 7 annotated",
}


def test_the_real_folders():
    """Every folder of the shared data that has one of these names is found, with these contents."""
    root = shared_path("data")
    found = {name: describe(dataset) for name, dataset in find_datasets(root).items()}
    known = {name: contents for name, contents in REAL.items() if (root / name).is_dir()}
    assert known and {name: found.get(name) for name in known} == known
