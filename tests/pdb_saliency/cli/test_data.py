"""`pdb-saliency data`: sets that are there, missing or refused; sets with weights on the command line."""

import argparse

import pytest

from helpers import dataset_folders as folders
from helpers.console import help_of, run_process
from helpers.console import run_data as run
from helpers.dataset_folders import picture, save
from helpers.films import grey_frame, write_frames
from pdb_saliency.cli.train_options import weighted_set
from pdb_saliency.data.sets.check import open_videos
from pdb_saliency.errors import InputError


def test_the_command_lists_what_is_there_and_what_is_not(tmp_path, capsys):
    folders.duts(tmp_path)
    folders.visal(tmp_path)
    run("--data-root", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not found" not in line] == [
        "duts:train               4 stills",
        "duts:test                2 stills",
        "visal                    2 videos of 24 frames, 6 annotated",
    ]
    missing = {line.split()[0]: line for line in lines if "not found" in line}
    assert set(missing) == {"msra10k", "dut-omron", "ecssd", "davis-2016", "davis-2017", "fbms", "segtrack-v2"}
    assert str(tmp_path) in missing["ecssd"] and "ECSSD/ground_truth_mask" in missing["ecssd"]


def test_the_command_goes_through_all_sets_before_it_refuses(tmp_path, capsys):
    folders.duts(tmp_path)
    (tmp_path / "DUTS/DUTS-TR/DUTS-TR-Mask/0.png").unlink()
    with pytest.raises(InputError, match="1 data set refused: duts:train"):
        run("--data-root", tmp_path)
    captured = capsys.readouterr()
    assert (
        "duts:test                2 stills" in captured.out
        and "duts:train               4 stills; refused" in captured.out
    )
    run("--data-root", tmp_path, "duts:train", "--broken", "skip")
    captured = capsys.readouterr()
    assert captured.out == "duts:train               3 stills\n" and "DUTS-TR-Mask/0.png" in captured.err


def test_a_list_that_cannot_be_read_does_not_hide_the_other_sets(tmp_path, capsys):
    folders.davis_2016(tmp_path)
    folders.visal(tmp_path)
    folders.stills(tmp_path / "twice/images", tmp_path / "twice/masks")
    save(tmp_path / "twice/images/1.png", picture())
    (tmp_path / "DAVIS/ImageSets/480p/train.txt").write_text("bear cows bus\n")
    with pytest.raises(InputError, match="2 data sets refused: davis-2016:train, twice"):
        run("--data-root", tmp_path)
    out, err = capsys.readouterr()
    assert "train.txt: expected a picture and a mask in each line, got 'bear cows bus'" in err
    assert "1.jpg and 1.png are both called 1" in err
    lines = out.splitlines()
    assert "davis-2016:train         cannot be listed; refused" in lines
    assert "davis-2016:val           1 video of 12 frames, 12 annotated" in lines
    assert "visal                    2 videos of 24 frames, 6 annotated" in lines
    assert not any("davis-2016 " in line for line in lines)


def test_the_help_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(["data"], capsys).splitlines())) <= 80


def test_the_command_needs_to_know_where(tmp_path):
    with pytest.raises(InputError, match="--data-root"):
        run()
    with pytest.raises(InputError, match="no data set found"):
        run("--data-root", tmp_path)


@pytest.mark.parametrize("text, expected", [("duts:train", ("duts:train", 1.0)), ("a=b/c=0.5", ("a=b/c", 0.5))])
def test_a_set_may_have_a_weight(text, expected):
    assert weighted_set(text) == expected


@pytest.mark.parametrize("text", ["", "duts=", "duts=0", "duts=-1", "duts=nan", "duts=inf", "duts=much", "=2"])
def test_a_wrong_weight_is_wrong_usage(text):
    with pytest.raises(argparse.ArgumentTypeError):
        weighted_set(text)


def test_the_help_does_not_need_opencv():
    code = "import sys; sys.modules['cv2'] = None; from pdb_saliency.cli import main; main(['data', '--help'])"
    done = run_process("-c", code)
    assert done.returncode == 0 and "known by name" in done.stdout, done.stderr


def test_a_set_without_videos_is_called_as_the_user_called_it(tmp_path):
    for name in ("a", "b"):
        write_frames(tmp_path / name / "stills/images", [grey_frame(9)] * 2)
        write_frames(tmp_path / name / "stills/masks", [grey_frame(255)] * 2)
    with pytest.raises(InputError, match=r"b/stills: validation needs videos"):
        open_videos([str(tmp_path / "b/stills")], None)
