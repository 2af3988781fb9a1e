"""`pdb-saliency reproduce`: the paper's numbers beside those measured here."""

import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from helpers.checkpoints import mask_of, report, run, save
from pdb_saliency import cli
from pdb_saliency.errors import SaliencyError
from pdb_saliency.evaluation.paper import maps
from pdb_saliency.inference import crf

# Measuring


def test_every_cell_says_where_it_is_from(world, capsys):
    assert run(world) == 0
    tables = report(world)["tables"]
    assert set(tables) == {"1", "2", "4", "5"}
    for number, table in tables.items():
        for row in table["rows"]:
            for (test_set, _), cell in zip(table["columns"], row["cells"]):
                measured = row["note"].startswith("here: ")
                expected = (
                    "quoted from the paper" if not measured else "measured here" if test_set == "DAVIS" else "absent"
                )
                assert cell["source"] == expected and (cell["value"] is None) == (expected == "absent"), (number, row)
    page = (world / "out/tables.md").read_text()
    assert "DAVIS MAE (here 2 of 20 sequences)" in page and "ViSal MAE (not here)" in page
    assert "| Ours | *0.030* | *0.849* |" in page
    assert "bear" not in page and "12 of 1376 annotated frames" in page
    assert "absent" in capsys.readouterr().err


def test_seeds_become_mean_and_spread(world):
    assert run(world, "--tables", "5") == 0
    result = report(world)
    assert list(result["tables"]) == ["5"]
    (row,) = [row for row in result["tables"]["5"]["rows"] if row["note"]]
    assert row["name"] == "PDB-ConvLSTM" and row["note"].endswith("2 checkpoints")
    seeds = [m["scores"]["max_f"] for m in result["measurements"] if m["label"] != "spatial"]
    assert len(seeds) == 2 and row["cells"][0]["value"] == pytest.approx(np.mean(seeds))
    assert row["cells"][0]["spread"] == pytest.approx(np.std(seeds, ddof=1))


def test_scores_are_those_of_evaluate(world):
    assert run(world, "--tables", "4") == 0
    (measured,) = [m for m in report(world)["measurements"] if m["label"].startswith("spatial")]
    (folder,) = (world / "out/maps").glob("spatial-*")
    target = world / "scores.json"
    truth = f"DAVIS={world / 'data/part'}"
    assert cli.main(["evaluate", str(folder), truth, "--json", str(target)]) == 0
    assert json.loads(target.read_text()) == measured["scores"]
    assert measured["scores"]["frames"] == 12 and measured["date"] and "SHA-256" in measured["origin"]


def test_an_interrupted_run_goes_on_where_it_was(world, monkeypatch):
    runs = []
    real = maps.saliency_maps

    def stopping(frames, model, device):
        runs.append(None)
        if len(runs) == 4:
            raise KeyboardInterrupt
        return real(frames, model, device)

    monkeypatch.setattr(maps, "saliency_maps", stopping)
    assert run(world) == 130
    done = len(list((world / "out/maps").rglob("*.png")))
    assert done == 3 * 6 and not list((world / "out").rglob("*.part"))
    assert run(world) == 0
    assert len(runs) == 4 + 3  # Three checkpoints of two sequences; the fourth sequence was begun twice.
    assert run(world) == 0
    assert len(runs) == 7
    next((world / "out/maps").rglob("00003.png")).unlink()
    assert run(world) == 0
    assert len(runs) == 8


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(world):
    sources = ["--data-root", world / "data", "--checkpoints", world / "runs"]
    command = ["reproduce", *sources, "--tables", "5", "--figures", "none"]
    code = "import sys; from pdb_saliency.cli.program import main; sys.exit(main(sys.argv[1:]))"
    search = os.pathsep.join(path for path in sys.path if path)
    arguments = [sys.executable, "-c", code, *map(str, command), "-o", str(world / "killed")]
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"})
    try:
        while process.poll() is None and not list(world.glob("killed/maps/*/DAVIS/camel/*.png")):
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert all(cv2.imread(str(path)) is not None for path in (world / "killed/maps").rglob("*.png"))
    assert not (world / "killed/tables.json").exists()
    for out in ("killed", "fresh"):
        assert cli.main([*map(str, command), "-o", str(world / out)]) == 0
    killed, fresh = (json.loads((world / out / "tables.json").read_text()) for out in ("killed", "fresh"))
    assert killed == fresh


def test_a_map_of_another_size_is_made_again(world):
    assert run(world, "--tables", "5") == 0
    first = (world / "out/tables.json").read_bytes()
    (path,) = (world / "out/maps").glob("one-*/DAVIS/camel/00002.png")
    whole = path.read_bytes()
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (30, 20)))
    assert run(world, "--tables", "5") == 0
    assert path.read_bytes() == whole and (world / "out/tables.json").read_bytes() == first


@pytest.mark.slow
def test_another_checkpoint_of_the_same_name_is_run_anew(world):
    assert run(world, "--tables", "4") == 0
    before = report(world)["measurements"]
    save(world / "runs/spatial/model.safetensors", 9, temporal="none")
    assert run(world, "--tables", "4") == 0
    after = report(world)["measurements"]
    scores = [[m["scores"]["mae"] for m in found if m["label"].startswith("spatial")] for found in (before, after)]
    assert scores[0] != scores[1]


@pytest.mark.slow
def test_the_last_model_of_a_run_counts_not_its_best(world):
    save(world / "runs/one/best.safetensors", 7)
    save(world / "runs/unfinished/best.safetensors", 8)
    assert run(world, "--tables", "5") == 0
    found = {m["label"] for m in report(world)["measurements"]}
    assert found == {"one", "two", "spatial", "unfinished/best.safetensors"}


def test_ready_maps_fill_their_rows(world):
    for method, make in {"ssav": mask_of, "fgrne": lambda number: 255 - mask_of(number)}.items():
        for sequence in ("blackswan", "camel"):
            place = world / "methods" / method / "DAVIS" / sequence
            place.mkdir(parents=True)
            for number in range(6):
                cv2.imwrite(str(place / f"{number:05d}.png"), make(number))
    assert run(world, "--maps", world / "methods", "--tables", "1") == 0
    rows = report(world)["tables"]["1"]["rows"]
    found = {row["name"]: [cell["value"] for cell in row["cells"][:2]] for row in rows if "ready maps" in row["note"]}
    assert found["ssav"] == [0, 1] and found["FGRNE"][0] == 1  # A new row, and one of the paper's.
    assert [row["name"] for row in rows][-1] == "ssav"
    (world / "methods/ssav/DAVIS/camel/00002.png").unlink()
    assert run(world, "--maps", world / "methods") == 1


@pytest.mark.slow
def test_figure(world, capsys):
    standard = ["--data-root", world / "data", "--checkpoints", world / "runs", "-o", world / "out", "--no-crf"]
    assert cli.main(["reproduce", *map(str, standard)]) == 0
    assert cv2.imread(str(world / "out/figure4.png")) is not None
    assert (world / "out/figure4.pdf").read_bytes().startswith(b"%PDF")


def test_tables_alone_need_no_checkpoint(world):
    arguments = ["--data-root", world / "data", "-o", world / "out", "--figures", "none"]
    assert cli.main(["reproduce", *map(str, arguments)]) == 0
    assert "there was no checkpoint" in (world / "out/tables.md").read_text()


# CRF


def test_ours_plus_is_measured(world):
    pytest.importorskip("pydensecrf")
    sources = ["--data-root", world / "data", "--checkpoints", world / "runs/one"]
    assert cli.main(["reproduce", *map(str, [*sources, "-o", world / "out", "--figures", "none"])]) == 0
    (row,) = [row for row in report(world)["tables"]["2"]["rows"] if row["name"] == "Ours+" and row["note"]]
    assert [cell["source"] for cell in row["cells"]] == ["measured here", "measured here", "absent"]
    assert len(list((world / "out/maps").glob("*-crf/DAVIS/*/*.png"))) == 12


def test_without_the_crf_library(world, capsys, monkeypatch):
    monkeypatch.setattr(crf, "require", _absent)
    sources = ["--data-root", world / "data", "--checkpoints", world / "runs"]
    assert cli.main(["reproduce", *map(str, [*sources, "-o", world / "out", "--figures", "none"])]) == 0
    assert '"Ours+" is left out' in capsys.readouterr().err
    assert not [row for row in report(world)["tables"]["2"]["rows"] if row["name"] == "Ours+" and row["note"]]


def _absent():
    raise SaliencyError("the CRF needs pydensecrf2")
