"""`pdb-saliency reproduce`: what it refuses or skips, and odd names."""

import os
import re
import shutil

import pytest
import torch

from helpers.checkpoints import TINY, report, run, save
from pdb_saliency import SaliencyModel, save_model


@pytest.mark.slow
def test_unusable_checkpoints_are_reported(world, capsys):
    (world / "runs/broken.pth").write_bytes(b"x" * 100)
    save(world / "runs/odd.safetensors", 0, pdc="aspp")
    assert run(world) == 0
    err = capsys.readouterr().err
    assert "broken.pth" in err and "odd.safetensors: the paper has no table" in err


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")
def test_odd_names_of_checkpoints(world):
    """The page stays a table, the JSON is valid, and the names of kept files are not too long."""
    long = "/".join(["x" * 80] * 4)
    names = ["a|b `x` $\\nocommand$", "two\nlines", os.fsdecode(b"no text \xff"), "_hidden", f"{long}/deep"]
    for seed, name in enumerate(names):
        (world / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        save_model(SaliencyModel(TINY), world / "odd/plain.pth")
        (world / "odd/plain.pth").rename(world / f"odd/{name}.pth")
    assert run(world, "--checkpoints", world / "odd", "--tables", "5", "--figures", "4") == 0
    assert {m["label"] for m in report(world)["measurements"]} == {f"{name}.pth" for name in names}
    lines = (world / "out/tables.md").read_text().splitlines()
    lines = lines[lines.index("| --- | --- | --- | --- | --- |", lines.index("## What was measured")) + 1 :]
    assert len(lines) == len(names) and {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {7}
    assert all(len(os.fsencode(path.name)) <= 255 for path in (world / "out/maps").iterdir())


@pytest.mark.slow
def test_a_copy_is_no_seed(world, capsys):
    shutil.copytree(world / "runs/one", world / "runs/same")
    assert run(world, "--tables", "5") == 0
    assert "same: a copy of one" in capsys.readouterr().err
    assert [m["label"] for m in report(world)["measurements"]] == ["one", "spatial", "two"]


@pytest.mark.slow
def test_broken_pairs_are_reported_before_the_work(world, capsys):
    broken = world / "data/part/JPEGImages/camel/00002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    assert run(world) == 1
    assert "camel/00002.jpg" in capsys.readouterr().err and not (world / "out").exists()
    assert run(world, "--broken", "skip", "--tables", "5") == 0
    assert report(world)["test_sets"] == {"DAVIS": "only 2 of 20 sequences, 11 of 1376 annotated frames"}


def test_a_folder_in_the_way_of_the_tables_is_reported_before_the_work(world, capsys):
    (world / "out/tables.md").mkdir(parents=True)
    assert run(world) == 1
    assert "tables.md: cannot be written" in capsys.readouterr().err and not (world / "out/maps").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-root", "DATA/training"], "none of the paper's test sets"),
        (["--data-root", "DATA/nothing"], "no such folder"),
        (["--checkpoints", "DATA"], "no checkpoint"),
        (["--checkpoints", "nothing"], "no such folder"),
        (["--dataset", "Cows=DATA/part"], "DAVIS, FBMS, ViSal"),
        (["--dataset", "FBMS=DATA/nothing"], "nothing"),
        (["--maps", "DATA"], "no maps"),
        (["--dataset", "DAVIS=DATA/training"], "bear is not among the paper's test videos"),
        (["--dataset", "DAVIS=DATA/part", "--dataset", "DAVIS=DATA/training"], "twice"),
    ],
)
def test_refused_in_one_line(world, capsys, arguments, message):
    assert run(world, *(text.replace("DATA", str(world / "data")) for text in arguments)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(lines) == 1 and message in lines[0]
