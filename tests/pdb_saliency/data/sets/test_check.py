"""Broken pairs are reported by name, and refused or left out."""

import shutil

import numpy as np
import pytest

from helpers import dataset_folders as folders
from helpers.console import run_data as run
from helpers.dataset_folders import box_mask, picture, save
from helpers.paths import shared_path
from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.sets.check import check_dataset
from pdb_saliency.errors import InputError


@pytest.fixture
def stills(tmp_path):
    folders.stills(tmp_path / "set/images", tmp_path / "set/masks", 4)
    return tmp_path / "set"


@pytest.fixture
def video(tmp_path):
    folders.video(tmp_path / "set/JPEGImages/walk", tmp_path / "set/Annotations/walk", 12)
    return tmp_path / "set"


def cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def damage(path):
    """A byte inside the compressed pixels."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


BREAK = {
    "truncated picture": (lambda root: cut(root / "images/2.jpg"), "2.jpg: this frame does not decode"),
    "empty picture": (lambda root: (root / "images/2.jpg").write_bytes(b""), "2.jpg: this frame does not decode"),
    "text picture": (lambda root: (root / "images/2.jpg").write_text("not found"), "2.jpg: this frame does not decode"),
    "missing picture": (lambda root: (root / "images/2.jpg").unlink(), "images/2.jpg: the picture is missing"),
    "truncated mask": (lambda root: cut(root / "masks/2.png"), "2.png: this frame does not decode"),
    "damaged mask": (lambda root: damage(root / "masks/2.png"), "2.png: this frame does not decode"),
    "zero-byte mask": (lambda root: (root / "masks/2.png").write_bytes(b""), "2.png: this frame does not decode"),
    "missing mask": (lambda root: (root / "masks/2.png").unlink(), "masks/2.png: the mask is missing"),
    "other size": (lambda root: save(root / "masks/2.png", box_mask(height=25)), "2.png: a mask of 32x24 pixels"),
    "empty mask": (lambda root: save(root / "masks/2.png", 0 * box_mask()), "2.png: the mask has no foreground"),
    "link to nothing": (
        lambda root: ((root / "masks/2.png").unlink(), (root / "masks/2.png").symlink_to("gone.png")),
        "masks/2.png: the mask is missing",
    ),
}


@pytest.mark.parametrize("way", BREAK)
def test_a_broken_still_is_named_and_refused_or_left_out(stills, capsys, way):
    spoil, expected = BREAK[way]
    spoil(stills)
    dataset = open_dataset(str(stills))
    with pytest.raises(InputError, match="data set set: 1 broken pair, .*--broken skip"):
        check_dataset(dataset, broken="refuse", workers=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pdb-saliency: broken: set: ") and expected in line

    left = check_dataset(dataset, broken="skip", workers=2)
    assert [still.name for still in left.stills] == ["0", "1", "3"]
    broken, note = capsys.readouterr().err.splitlines()
    assert broken == line and note == "pdb-saliency: note: set: 1 broken pair left out"
    check_dataset(left, broken="refuse")


def test_a_whole_set_is_returned_as_it_is(stills, video, capsys):
    for folder in (stills, video):
        dataset = open_dataset(str(folder))
        assert check_dataset(dataset) == dataset
    assert capsys.readouterr().err == ""


def test_every_broken_pair_is_reported(stills, capsys):
    for path in (stills / "masks").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="nothing in it can be used; 4 broken pairs"):
        check_dataset(open_dataset(str(stills)), broken="skip")
    assert len(capsys.readouterr().err.splitlines()) == 4


def skip(folder, capsys):
    left = check_dataset(open_dataset(str(folder)), broken="skip")
    return left.videos, capsys.readouterr().err


def test_a_broken_frame_goes_with_its_mask(video, capsys):
    cut(video / "JPEGImages/walk/00004.jpg")
    ((left,), reported) = skip(video, capsys)
    stems = [frame.stem for frame in left.frames]
    assert "00004.jpg" in reported and "00004" not in stems and len(stems) == 11
    assert [paths[0].stem for paths in left.masks] == stems


def test_a_frame_that_is_missing_between_masks(video, capsys):
    (video / "JPEGImages/walk/00004.jpg").unlink()
    ((left,), reported) = skip(video, capsys)
    assert "JPEGImages/walk/00004.jpg: the picture is missing" in reported and len(left.frames) == 11


@pytest.mark.parametrize("index", [0, 5, 11])
def test_a_broken_mask_leaves_its_frame_unannotated(video, capsys, index):
    (video / f"Annotations/walk/{index:05d}.png").write_bytes(b"")
    ((left,), reported) = skip(video, capsys)
    assert f"{index:05d}.png" in reported and len(left.frames) == 12
    assert [bool(paths) for paths in left.masks] == [number != index for number in range(12)]


@pytest.mark.parametrize("index", [0, 5, 11])
def test_a_missing_mask_is_noticed_where_all_frames_have_one(video, capsys, index):
    (video / f"Annotations/walk/{index:05d}.png").unlink()
    ((left,), reported) = skip(video, capsys)
    assert f"Annotations/walk/{index:05d}.png: the mask is missing" in reported and not left.masks[index]


def test_a_missing_mask_is_noticed_where_every_nth_frame_has_one(tmp_path, capsys):
    folders.video(tmp_path / "set/JPEGImages/walk", tmp_path / "set/Annotations/walk", 50, every=10)
    assert check_dataset(open_dataset("set", tmp_path)) == open_dataset("set", tmp_path)
    (tmp_path / "set/Annotations/walk/00020.png").unlink()
    with pytest.raises(InputError):
        check_dataset(open_dataset("set", tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert "00020.png: the mask is missing" in line


@pytest.mark.parametrize("annotated", [(0,), (0, 19, 39, 49), (3, 4, 30)])
def test_irregular_annotation_is_not_missing(tmp_path, annotated):
    for number in range(50):
        save(tmp_path / f"set/JPEGImages/walk/{number}.jpg", picture(number))
    for number in annotated:
        save(tmp_path / f"set/Annotations/walk/{number}.png", box_mask())
    (video,) = check_dataset(open_dataset("set", tmp_path)).videos
    assert [index for index, paths in enumerate(video.masks) if paths] == list(annotated)


def test_one_object_of_two_is_missing(tmp_path, capsys):
    folders.segtrack_v2(tmp_path)
    (tmp_path / "SegTrackv2/GroundTruth/bmx/2/bmx_00003.png").unlink()
    left = check_dataset(open_dataset("segtrack-v2", tmp_path), broken="skip")
    assert "bmx/2/bmx_00003.png: the mask is missing" in capsys.readouterr().err
    assert [len(paths) for paths in left.videos[0].masks] == [2, 2, 2, 0, 2]


def test_a_frame_of_another_size(video, capsys):
    save(video / "JPEGImages/walk/00003.jpg", picture(height=30))
    save(video / "Annotations/walk/00003.png", box_mask(height=30))
    ((left,), reported) = skip(video, capsys)
    assert "00003.jpg: a frame of 32x24 pixels is expected, like most of its video, got 32x30" in reported
    assert len(left.frames) == 11


def test_the_object_may_leave_but_must_be_there_once(video, capsys):
    for number in range(1, 12):
        save(video / f"Annotations/walk/{number:05d}.png", 0 * box_mask())
    dataset = open_dataset(str(video))
    assert check_dataset(dataset) == dataset
    save(video / "Annotations/walk/00000.png", 0 * box_mask())
    with pytest.raises(InputError, match="nothing in it can be used"):
        check_dataset(dataset, broken="skip")
    assert "walk: none of its 12 masks has foreground" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind, expected", [("JPEGImages", "walk: none of its 12 frames can be read"), ("Annotations", "has a mask")]
)
def test_a_sequence_without_one_half_is_one_line(video, tmp_path, capsys, kind, expected):
    folders.video(video / "JPEGImages/run", video / "Annotations/run")
    (video / kind / "walk").rename(tmp_path / "elsewhere")
    videos, reported = skip(video, capsys)
    assert [left.name for left in videos] == ["run"]
    broken, _ = reported.splitlines()
    assert expected in broken


def test_masks_of_all_sequences_in_one_folder_that_belong_to_none_or_two(tmp_path, capsys):
    folders.visal(tmp_path)
    save(tmp_path / "ViSal/GroundTruth/boat_099.png", box_mask())
    left = check_dataset(open_dataset("visal", tmp_path), broken="skip")
    assert [video.name for video in left.videos] == ["boat", "boat2"]
    assert "GroundTruth: none of its 1 frames can be read" in capsys.readouterr().err
    for sequence in ("boat", "boat2"):
        save(tmp_path / f"ViSal/ViSal/{sequence}/0099.png", picture())
    save(tmp_path / "ViSal/GroundTruth/0099.png", box_mask())
    with pytest.raises(InputError, match=r"0099\.png: both boat and boat2 have a frame 0099"):
        open_dataset("visal", tmp_path)


def test_a_folder_beside_the_masks_of_a_sequence_is_no_object(video):
    save(video / "Annotations/walk/older/00000.png", box_mask())
    dataset = open_dataset(str(video))
    assert check_dataset(dataset) == dataset
    assert {path.parent.name for paths in dataset.videos[0].masks for path in paths} == {"walk"}


def test_a_sequence_without_frames(video, capsys):
    (video / "JPEGImages/empty").mkdir()
    (video / "Annotations/empty").mkdir()
    videos, reported = skip(video, capsys)
    assert [left.name for left in videos] == ["walk"] and "empty: there is no frame in its folder" in reported
    with pytest.raises(InputError, match="1 data set refused: set"):
        run(video)
    for kind in ("JPEGImages", "Annotations"):
        shutil.rmtree(video / kind / "walk")
    with pytest.raises(InputError, match="1 data set refused: set"):
        run(video)


def test_what_davis_lists_must_be_there(tmp_path, capsys):
    folders.davis_2016(tmp_path)
    (tmp_path / "DAVIS/JPEGImages/480p/bear/00011.jpg").unlink()
    (tmp_path / "DAVIS/Annotations/480p/bear/00000.png").unlink()
    with pytest.raises(InputError, match="2 broken pairs"):
        check_dataset(open_dataset("davis-2016:train", tmp_path))
    reported = capsys.readouterr().err
    assert "bear/00011.jpg: the picture is missing" in reported and "bear/00000.png: the mask is missing" in reported


def test_a_sequence_of_fbms_without_ground_truth(tmp_path, capsys):
    folders.fbms(tmp_path)
    (tmp_path / "FBMS_Testset/Testset/cars1/GroundTruth").rename(tmp_path / "elsewhere")
    left = check_dataset(open_dataset("fbms:test", tmp_path), broken="skip")
    assert [video.name for video in left.videos] == ["tennis"]
    assert "cars1: none of its 19 frames has a mask" in capsys.readouterr().err


def test_a_folder_named_like_a_picture_is_a_broken_picture(stills, capsys):
    (stills / "images/2.jpg").unlink()
    (stills / "images/2.jpg").mkdir()
    with pytest.raises(InputError, match="1 broken pair"):
        check_dataset(open_dataset(str(stills)))
    assert "images/2.jpg: expected a picture file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dutomron54", "misc_stills15", "segtrack_part", "ytobjects_part"])
def test_real_sets_are_whole(name, capsys):
    dataset = open_dataset(str(shared_path(f"data/{name}")))
    assert check_dataset(dataset) == dataset
    assert capsys.readouterr().err == ""


def test_a_real_set_that_was_broken(tmp_path, capsys):
    real = open_dataset(str(shared_path("data/misc_stills15")))
    for still in real.stills:
        for kind, path in (("images", still.image), ("masks", still.mask)):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / kind / path.name).write_bytes(path.read_bytes())
    names = [still.name for still in real.stills]
    cut(tmp_path / "set/images" / real.stills[2].image.name, 0.9)
    cut(tmp_path / "set/masks" / real.stills[5].mask.name, 0.9)
    left = check_dataset(open_dataset("set", tmp_path), broken="skip")
    assert [still.name for still in left.stills] == [name for name in names if name not in (names[2], names[5])]
    reported = capsys.readouterr().err
    assert real.stills[2].image.name in reported and real.stills[5].mask.name in reported
    assert np.all([still.image.exists() for still in left.stills])
