"""`pdb-saliency train`, from the command line to a model that `predict` takes."""

import json

import cv2
import numpy as np
import pytest
import torch

from helpers.training_data import write_discs
from pdb_saliency import cli, load_model, options
from pdb_saliency.data import mix as sources
from pdb_saliency.data.sets.items import Dataset, Still, Video
from pdb_saliency.errors import InputError
from pdb_saliency.model.saliency import upsample_saliency
from pdb_saliency.model.temporal import TEMPORAL_MODULES
from pdb_saliency.training import config as presets
from pdb_saliency.training.losses import loss_sums

TINY = ["--preset", "modern", "--size", "33", "--batch", "2", "--steps", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def stills(tmp_path):
    """Six discs on noise."""
    write_discs(tmp_path)
    return tmp_path / "stills"


def train(*arguments):
    return cli.main(["train", *map(str, arguments)])


def test_three_stages_end_in_a_model_for_predict(stills, tmp_path, capsys):
    spatial, temporal, joint = (tmp_path / name for name in ("spatial", "temporal", "joint"))
    common = [*TINY, "--train", stills, "--length", "2"]
    assert train("--stage", "spatial", "--model", "lite", *common, "--length", "1", "-o", spatial) == 0
    clips = ["--clips", "copies=1,camera=1,cutouts=1", "--cache", "3"]
    assert (
        train("--stage", "temporal", "--from", spatial, *common, *clips, "--temporal", "convlstm", "-o", temporal) == 0
    )
    assert train("--stage", "joint", "--from", temporal, *common, "-o", joint) == 0
    metrics = json.loads((joint / "metrics.json").read_text())
    assert metrics["steps"] == 2 and np.isfinite(metrics["loss"])
    model = load_model(joint / "model.safetensors")
    assert model.config.temporal == "convlstm" and model.untrained is None
    # Stage temporal left the spatial part alone, stage joint did not.
    first, second = load_model(spatial / "model.safetensors"), load_model(temporal / "model.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(first.spatial.state_dict().values(), second.spatial.state_dict().values())
    )
    assert not torch.equal(model.spatial.reduce.conv.weight, second.spatial.reduce.conv.weight)
    weights = ["--weights", str(joint / "model.safetensors")]
    assert cli.main(["predict", str(stills / "images"), "-o", str(tmp_path / "out"), *weights]) == 0
    assert len(list((tmp_path / "out/maps").iterdir())) == 6


def test_preview_trains_nothing(stills, tmp_path):
    run = tmp_path / "run"
    arguments = ["--stage", "spatial", "--model", "lite", *TINY, "--train", stills, "-o", run]
    assert train(*arguments, "--preview", tmp_path / "a.png") == 0
    assert cv2.imread(str(tmp_path / "a.png")).std() > 5
    assert not run.exists()


def test_the_seed_decides_what_is_seen(stills, tmp_path):
    """Two runs show the same clips, of all kinds that stills can make; another seed shows other clips."""
    sheets = []
    for number, seed in enumerate((5, 5, 6)):
        arguments = ["--stage", "joint", "--from", "imagenet", "--train", stills, "--length", 3, "--seed", seed]
        arguments += ["--clips", "copies=1,camera=1,cutouts=1", "--preview", tmp_path / f"{number}.png"]
        assert train(*TINY, *arguments, "-o", tmp_path / "run") == 0
        sheets.append(cv2.imread(str(tmp_path / f"{number}.png")))
    assert np.array_equal(sheets[0], sheets[1]) and not np.array_equal(sheets[0], sheets[2])


def test_training_at_another_size_is_reported(stills, tmp_path, capsys):
    arguments = ["--stage", "spatial", "--model", "lite", *TINY, "--train", stills, "--steps", "1"]
    assert train(*arguments, "-o", tmp_path / "a") == 0
    assert "training at 33x33; validation and `predict` use the model's input size, 185x321" in capsys.readouterr().err
    assert train(*arguments, "--input-size", "33", "-o", tmp_path / "b") == 0
    assert "training at" not in capsys.readouterr().err
    assert load_model(tmp_path / "b/model.safetensors").config.input_size == (33, 33)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "spatial", "--model", "released"], "frozen batch normalisation"),
        (["--stage", "spatial", "--model", "lite", "--temporal", "convlstm"], "no temporal module"),
        (["--stage", "spatial", "--model", "lite", "--freeze", "nonsense.*"], "fits no parameter"),
        (["--stage", "spatial", "--model", "lite", "--freeze", "*"], "nothing to train"),
        (["--stage", "spatial", "--model", "lite", "--cutouts", "nowhere"], "--clips has none"),
        (["--stage", "temporal"], "expected --from"),
        (["--stage", "spatial", "--model", "lite", "--clips", "video=1"], "need videos"),
    ],
)
def test_impossible_options_are_one_line(stills, tmp_path, capsys, arguments, words):
    assert train(*arguments, *TINY, "--train", stills, "-o", tmp_path / "run") == 1
    line = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(line) == 1 and words in line[0]


def test_the_choices_are_those_of_the_library():
    assert options.TEMPORAL_KINDS == tuple(kind for kind in TEMPORAL_MODULES if kind != "none")
    assert options.PRESETS == tuple(presets.PRESETS)


def sets(tmp_path):
    for name in (*range(10), "a", "b", "c"):
        (tmp_path / (f"{name}.png" if isinstance(name, int) else name)).write_bytes(b"picture")
    stills = tuple(Still(str(number), tmp_path / f"{number}.png", tmp_path / f"{number}.png") for number in range(10))
    video = Video("v", (tmp_path / "a", tmp_path / "b", tmp_path / "c"), ((tmp_path / "a",), (), (tmp_path / "c",)))
    return Dataset("stills", stills=stills), Dataset("video", videos=(video,))


def test_shares_of_a_mix(tmp_path):
    stills, video = sets(tmp_path)
    paper = sources.mix_clips([(stills, 0.5), (video, 2)], None)
    assert paper.weights == [5, 4]  # Pictures and annotated frames, times the weight of their set.
    mix = sources.mix_clips([(stills, 1), (stills, 3), (video, 1)], {"copies": 2, "video": 1})
    assert mix.weights == [0.5, 1.5, 1]
    assert sources.mix_clips([(stills, 1)], {"copies": 1, "video": 1}, required=False).weights == [1]
    with pytest.raises(InputError, match="need videos"):
        sources.mix_clips([(stills, 1)], {"copies": 1, "video": 1})


def test_a_mix_of_other_files_is_another_one(tmp_path):
    """Otherwise a run would continue, and a cache be used, after masks were corrected in between."""
    (stills, video), words = sets(tmp_path), []
    for change in (None, "3.png", "c"):
        if change:
            (tmp_path / change).write_bytes(b"a larger picture")
        words.append(sources.mix_clips([(stills, 1), (video, 1)], None).words)
    assert words[0][0] != words[1][0] and words[0][1] == words[1][1]
    assert words[1][0] == words[2][0] and words[1][1] != words[2][1]
    (tmp_path / "elsewhere").mkdir()
    again, same = sets(tmp_path / "elsewhere")
    assert sources.mix_clips([(again, 1), (same, 1)], None).words == words[0]


@pytest.mark.parametrize("logit", [-120.0, -90.0, -20.0, 20.0, 90.0, 120.0])
def test_a_model_that_is_sure_of_something_wrong_still_learns(logit):
    """In the paper's order of sigmoid and upsampling, the gradient points to the mask even at large logits."""
    logits = torch.full((1, 1, 3, 3), logit, requires_grad=True)
    masks = torch.full((1, 1, 1, 9, 9), float(logit < 0))
    upsampled = upsample_saliency(logits, (9, 9)).unsqueeze(0)
    loss_sums(upsampled, masks, torch.ones(1, 1, dtype=torch.bool)).cross_entropy.backward()
    assert (logits.grad * np.sign(logit) > 0).all()
    assert logits.grad.abs().sum().item() == pytest.approx(81, rel=1e-3)
