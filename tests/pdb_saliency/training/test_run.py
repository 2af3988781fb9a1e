"""Training as a function call: a notebook gets what the command line gets, and each mistake is reported in one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from helpers.training_data import write_discs
from pdb_saliency import cli
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.training import InitialModel, RunOptions, Sources, TrainConfig, preset, preview_samples, train

# As the names in OPTIONS.
ENTRIES = {"size": (33, 33), "batch": 2, "steps": 2, "length": 2, "iou_weight": 0.5, "freeze": ("spatial.backbone.*",)}
OPTIONS = (
    "--size 33 --batch 2 --steps 2 --length 2 --iou 0.5 --freeze spatial.backbone.* --workers 0 --device cpu".split()
)
MODEL = InitialModel("lite", weights="imagenet", temporal="convlstm", input_size=(33, 33))


@pytest.fixture
def data(tmp_path):
    """stills/ and video/."""
    write_discs(tmp_path)
    return tmp_path


def test_the_same_run_as_the_command_line(data, monkeypatch, capsys):
    """Bit for bit: metrics, log, configuration and weights; and it prints nothing."""
    monkeypatch.setattr("sys.argv", ["notebook"])
    sources = Sources(
        ["stills", (data / "video", 0.5)], val=["video"], clips={"copies": 1, "video": 1}, root=data, val_every=2
    )
    options = RunOptions(validate=1, scalars=1, pictures=1)
    config = preset("modern", "joint", **ENTRIES)
    metrics = train(config, sources, str(data / "mine"), model=MODEL, device="cpu", options=options)
    assert capsys.readouterr() == ("", "")
    command = ["train", "--preset", "modern", "--stage", "joint", "--model", "lite", "--from", "imagenet", *OPTIONS]
    command += ["--temporal", "convlstm", "--input-size", "33", "--train", "stills", "--train", f"{data / 'video'}=0.5"]
    command += ["--val", "video", "--val-every", "2", "--clips", "copies,video", "--data-root", str(data)]
    command += ["--validate", "1", "--scalars", "1", "-o", str(data / "theirs")]
    assert cli.main(command) == 0
    assert metrics["steps"] == 2 and metrics["validation"]["frames"] > 0 and np.isfinite(metrics["loss"])
    assert metrics == json.loads((data / "theirs/metrics.json").read_text())
    for name in ("metrics.json", "log.jsonl", "config.json", "model.safetensors", "best.safetensors"):
        assert (data / "mine" / name).read_bytes() == (data / "theirs" / name).read_bytes(), name
    # The same call again finds the run finished.
    assert train(config, sources, data / "mine", model=MODEL, device="cpu", options=options) == metrics


@pytest.mark.parametrize("name", ["paper", "modern"])
def test_the_clips_of_a_preset_depend_on_what_the_sets_have(data, name, caplog):
    """Without videos, `paper` repeats stills and `modern` leaves video out; with both, `paper` takes video alone."""
    caplog.set_level("INFO", "pdb_saliency")
    kinds = []
    for sets in (["stills"], ["stills", "video"]):
        caplog.clear()
        sources = Sources(sets, clips=name, root=data)
        out = data / f"{name}-{len(sets)}"
        config = preset(name, "joint", **(ENTRIES | {"steps": 1, "batch": 1}))
        train(config, sources, out, model=MODEL, device="cpu", options=RunOptions(0, 0, 0, 0, 0))
        words = json.loads((out / "config.json").read_text())["data"]
        assert [record.getMessage() for record in caplog.records][: len(words)] == [f"data: {line}" for line in words]
        kinds.append({line.split()[0] for line in words})
    modern = {"copies", "camera", "cutouts"}
    assert kinds == ([{"copies"}, {"video"}] if name == "paper" else [modern, modern | {"video"}])


def test_without_a_size_training_is_at_the_models(data):
    config = preset("modern", "spatial", steps=1, batch=1)
    assert config.size is None
    sources, out = Sources(data / "stills"), data / "run"
    model = InitialModel("lite", input_size=(33, 33))
    preview_samples(config, sources, data / "samples.png", model=model, device="cpu")
    assert (data / "samples.png").stat().st_size > 0 and not out.exists()
    train(config, sources, out, model=model, device="cpu", options=RunOptions(0, 0, 0, 0, 0))
    stored = TrainConfig.from_dict(json.loads((out / "config.json").read_text()))
    assert stored.size == (33, 33) and stored.start and stored.model["input_size"] == [33, 33]


@pytest.mark.parametrize(
    ("sources", "options", "words"),
    [
        ({"train": ["nowhere"]}, {}, "nowhere"),
        ({"clips": {"films": 1}}, {}, "clips must give copies, camera, cutouts, video shares"),
        ({"clips": {"copies": -1}}, {}, "of at least 0, got {'copies': -1}"),
        ({"clips": "old"}, {}, "clips must be shares or one of paper, modern, got 'old'"),
        ({"clips": {"video": 1}}, {}, "clips of kind video need videos"),
        ({"train": [Dataset("empty")]}, {}, "nothing to train on"),
        ({"val": ["stills"]}, {}, "validation needs videos"),
        ({}, {"model": InitialModel("large")}, "the network must be one of lite, paper, released, got 'large'"),
        ({}, {"model": InitialModel("lite", weights="imagenet", temporal="gru")}, "temporal must be one of"),
        ({}, {"model": InitialModel("lite")}, "stage joint continues from a trained model"),
        ({}, {"device": "tpu"}, "the device must be one of auto, cpu, cuda, got 'tpu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_one_line(data, sources, options, words):
    sources = Sources(**({"train": ["stills"], "root": data} | sources))
    with pytest.raises(SaliencyError, match=re.escape(words)) as caught:
        train(
            preset("modern", "joint", **ENTRIES), sources, data / "run", **({"model": MODEL, "device": "cpu"} | options)
        )
    assert "\n" not in str(caught.value) and not (data / "run").exists()
    assert isinstance(caught.value, InputError) or "device" in options


def test_presets():
    assert preset("modern", "spatial").warmup == 200
    assert preset("modern", "spatial", steps=500).warmup == 50  # At most a tenth of the run,
    assert preset("modern", "spatial", steps=500, warmup=200).warmup == 200  # unless it is asked for.
    for wrong in ({"name": "best"}, {"stage": "last"}, {"rate": 1.0}, {"steps": 0}):
        with pytest.raises(InputError, match="best|last|rate|steps"):
            preset(**({"name": "modern", "stage": "spatial"} | wrong))


def test_importing_the_package_is_light():
    words = "import sys, pdb_saliency.training as t; assert 'train' in dir(t); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words]).returncode == 0
