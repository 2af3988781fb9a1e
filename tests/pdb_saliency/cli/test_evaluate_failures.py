"""`pdb-saliency evaluate` on folders with faults: one clear line for each."""

import cv2
import numpy as np
import pytest

from helpers.evaluation_folders import fails, map_of, mask_of, run, scores_of, write, write_sequences


def test_missing_predictions(video, capsys):
    for number in (2, 3, 4, 5):
        (video / f"mine/long/{number:05d}.png").unlink()
    line = fails(capsys, video / "mine", video / "masks")
    assert (
        "4 of 13 predictions are missing: long/00002, long/00003, long/00004, ..." in line and "--allow-missing" in line
    )
    result = scores_of(video / "mine", video / "masks", "--allow-missing", folder=video)
    assert result["frames"] == 9 and result["missing"] == 4
    assert "4 of 13 predictions are missing" in capsys.readouterr().err


def test_missing_ends_do_not_shift_what_counts(video, capsys):
    (video / "mine/short/00000.png").unlink()
    write(video / "mine/short", {"00003": 255 - mask_of(3)})
    result = scores_of(video / "mine", video / "masks", "--allow-missing", folder=video)
    assert result["sequences"]["short"]["j_mean"] > 0.5  # Of frames 1 and 2; the wrong last one is still left out.


def test_nothing_left_that_counts(video, capsys):
    for number in (1, 2):
        (video / f"mine/short/{number:05d}.png").unlink()
    result = scores_of(video / "mine", video / "masks", "--allow-missing", folder=video)
    assert result["sequences"]["short"]["j_mean"] is None
    assert result["j_mean"] == result["sequences"]["long"]["j_mean"]


def test_extra_predictions_are_reported(video, capsys):
    write(video / "mine/long", {"00100": mask_of(0)})
    assert run(video / "mine", video / "masks") == 0
    assert "maps without a mask, ignored: 1 (long/00100)\n" in capsys.readouterr().err
    write(video / "mine/another", {"00000": mask_of(0), "00001": mask_of(1)})
    assert run(video / "mine", video / "masks") == 0
    assert "maps without a mask, ignored: 3 (long/00100, another/00000, another/00001)\n" in capsys.readouterr().err


def test_another_size_is_resized_and_reported(video, capsys):
    write_sequences(video / "mine", lambda number: cv2.resize(map_of(number), (32, 24)), {"short": 4})
    result = scores_of(video / "mine", video / "masks", folder=video)
    assert result["sequences"]["short"]["j_mean"] > 0.8
    assert "4 maps were resized" in capsys.readouterr().err


def test_masks_of_zeros_and_ones_are_reported(video, capsys):
    write_sequences(video / "mine", lambda number: mask_of(number) // 255, {"long": 9, "short": 4})
    assert run(video / "mine", video / "masks") == 0
    assert "no map has a value above 1" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["mine", "masks"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_pictures(video, capsys, where, damage):
    path = video / where / "long/00004.png"
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"not a picture"}[damage])
    assert str(path) in fails(capsys, video / "mine", video / "masks")


def test_damage_found_by_a_process(video, capsys):
    lengths = {f"s{number}": 8 for number in range(24)}
    write_sequences(video / "many", lambda number: mask_of(number % 5), lengths)
    write_sequences(video / "maps", map_of, lengths)
    (video / "maps/s20/00003.png").write_bytes(b"")
    assert "s20/00003.png" in fails(capsys, video / "maps", video / "many", "--workers", 2)


def test_coloured_maps_are_refused(video, capsys):
    write(video / "mine/short", {"00001": np.dstack([mask_of(1), mask_of(2), mask_of(3)])})
    assert "grey" in fails(capsys, video / "mine", video / "masks")


def test_two_maps_of_one_name(video, capsys):
    cv2.imwrite(str(video / "mine/short/00001.jpg"), map_of(1))
    assert "00001" in fails(capsys, video / "mine", video / "masks")


def test_nothing_there(video, capsys):
    assert "no such folder" in fails(capsys, video / "nothing", video / "masks")
    assert "nothing" in fails(capsys, video / "mine", video / "nothing")
    (video / "empty").mkdir()
    assert "expected for example" in fails(capsys, video / "empty", video / "masks")
    assert "neither masks" in fails(capsys, video / "mine", video / "empty")
    assert "got 'X='" in fails(capsys, video / "mine", "X=")
    assert "different names" in fails(capsys, video / "mine", video / "masks", video / "masks")
