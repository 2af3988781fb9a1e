"""What each stage trains and with which update rule, and that it learns."""

import dataclasses
import io
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.paths import shared_path
from helpers.train_discs import run, small_config
from helpers.training_data import TINY, DiscSamples
from pdb_saliency.data.clips.recorded import VideoClips
from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.stream import SampleStream
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.evaluation.validate import validate
from pdb_saliency.model.config import LITE
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import load_model
from pdb_saliency.training.config import CAFFE_PIXELS, RunOptions, TrainConfig, modern, paper
from pdb_saliency.training.distributed import check_packages, launch
from pdb_saliency.training.initial_model import starting_model
from pdb_saliency.training.loader import load_batches
from pdb_saliency.training.log import sample_sheet
from pdb_saliency.training.optimiser import build_optimizer, moving_average, set_rate, set_training_mode
from pdb_saliency.training.trainer import Trainer

QUIET = RunOptions(pictures=0, checkpoint=0)


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_the_papers_rate_makes_caffes_steps():
    """Caffe's SGD on a loss summed over the pixels and divided by the frames, against ours on the mean over both."""
    torch.manual_seed(0)
    weights, pixels = torch.randn(6, dtype=torch.float64), torch.randn(40, 6, dtype=torch.float64)
    config = paper("spatial")
    ours = nn.Parameter(weights.clone())
    optimizer = torch.optim.SGD([ours], lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    caffe, velocity = weights.clone(), torch.zeros(6, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        torch.sigmoid(pixels @ ours).mean().backward()  # The mean over the pixels of a frame.
        optimizer.step()
        held = caffe.clone().requires_grad_()
        (CAFFE_PIXELS * torch.sigmoid(pixels @ held).mean()).backward()  # The sum over 473x473 pixels.
        velocity = 0.9 * velocity + 1e-6 * (held.grad + 0.0005 * caffe)
        caffe -= velocity
    torch.testing.assert_close(ours.detach(), caffe, rtol=1e-12, atol=0)
    assert (caffe - weights).norm() > 0.1


@pytest.mark.parametrize("make", [paper, modern])
@pytest.mark.parametrize("stage", ["spatial", "temporal", "joint"])
def test_configurations_survive_json(make, stage):
    config = dataclasses.replace(make(stage), model=LITE.to_dict(), data=("a", "b"), seed=7)
    stored = json.loads(json.dumps(config.to_dict()))
    assert config.difference(stored) is None
    assert dataclasses.replace(TrainConfig.from_dict(stored), model=LITE.to_dict()) == config
    with pytest.raises(ValueError, match="other entries.*'lr'"):
        TrainConfig.from_dict({name: value for name, value in stored.items() if name != "lr"})


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"ema": 1.0}, "ema must be from 0 to less than 1, got 1.0"),
        ({"batch_norm": "thawed"}, "batch_norm must be one of frozen, new_layers, train, got 'thawed'"),
        ({"cache": 3}, "only stage temporal has frozen features"),
    ],
)
def test_impossible_configurations(entries, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(modern("spatial"), **entries)


def test_rates():
    config = dataclasses.replace(modern("spatial"), steps=100, warmup=9, lr=1.0, backbone_lr=0.1, model=LITE.to_dict())
    model = SaliencyModel(TINY, temporal="none")
    set_training_mode(model, config)
    optimizer = build_optimizer(model, config)
    rates = [set_rate(optimizer, config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0 < rates[99] < 0.001
    assert rates[9 + 45] == pytest.approx(0.5, abs=0.02)
    assert {round(group["lr"] / rates[99], 3) for group in optimizer.param_groups} == {1.0, 0.1}
    fixed = dataclasses.replace(config, schedule="fixed", warmup=0)
    assert {set_rate(optimizer, fixed, step) for step in (0, 50, 99)} == {1.0}


def test_the_average_forgets_its_random_start():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1000.0)
    average = moving_average(model, 0.99)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(60):
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1.0)
    nn.init.constant_(model.weight, 2.0)
    before = average.module.weight.item()
    average.update_parameters(model)
    assert average.module.weight.item() - before == pytest.approx(1 - 61 / 70)
    assert moving_average(model, 0.0) is None


# -- what a stage changes ----------------------------------------------------------------------------------------------


def changed_tensors(tmp_path, stage, **entries):
    """Names of the model's tensors that a short run changed."""
    entries = {"steps": 3, "ema": 0.0, "weight_decay": 0.1} | entries
    run(tmp_path, small_config(stage, **entries), QUIET)
    torch.manual_seed(0)
    before = SaliencyModel(TINY, temporal="none" if stage == "spatial" else "pdb_convlstm").state_dict()
    after = load_file(tmp_path / "model.safetensors")
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_stage_temporal_leaves_the_spatial_part_alone(tmp_path):
    """Its batch statistics as well, whatever --batch-norm says; all the rest is trained."""
    changed = changed_tensors(tmp_path, "temporal", batch_norm="train")
    everything = set(SaliencyModel(TINY).state_dict())
    assert changed == {name for name in everything if not name.startswith("spatial.")}


@pytest.mark.parametrize("stage", ["spatial", "joint"])
@pytest.mark.parametrize("batch_norm", ["frozen", "new_layers", "train"])
def test_batch_norm(tmp_path, stage, batch_norm):
    changed = changed_tensors(tmp_path, stage, batch_norm=batch_norm)
    normalised = {name for name in changed if ".bn." in name}
    assert {name.split(".")[0] for name in changed} >= (
        {"spatial", "head"} if stage == "spatial" else {"spatial", "temporal"}
    )
    new_layers = {name for name in normalised if not name.startswith("spatial.backbone.")}
    frozen = batch_norm == "frozen" or (batch_norm == "new_layers" and stage == "joint")
    assert bool(new_layers) != frozen
    assert bool(normalised - new_layers) == (batch_norm == "train")


def test_frozen_parameters_by_name(tmp_path):
    changed = changed_tensors(tmp_path, "joint", freeze=("spatial.*", "temporal.*.0.*"))
    assert changed and not any(name.startswith("spatial.") for name in changed)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(
        SaliencyError, match="loss is nan, which is not finite at step 4, with the samples .*poisoned.*"
    ) as error:
        run(tmp_path, small_config(batch_norm="frozen"), RunOptions(checkpoint=2), poison=14)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000002.ckpt"]
    assert not (tmp_path / "model.safetensors").exists()


class Broken:
    """Samples that cannot be read."""

    def __getitem__(self, number):
        raise InputError("frames/7.jpg: cannot be read (gone)")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_disappears_is_one_line(tmp_path, workers):
    trainer = Trainer(
        launch("cpu"), small_config(), SaliencyModel(TINY, temporal="none"), Broken(), tmp_path, RunOptions(workers)
    )
    with pytest.raises(InputError) as error:
        trainer.train()
    assert str(error.value) == "frames/7.jpg: cannot be read (gone)"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(SaliencyError, match=r"the package tensorboard: pip install 'pdb-ext\[train\]'"):
        check_packages()


@pytest.mark.slow
def test_mixed_precision(tmp_path):
    """Convolutions in bfloat16, weights and their averages in float32; the loss is close to that of float32."""
    seen = set()
    config = small_config(steps=8, precision="bf16-mixed", batch_norm="new_layers")
    model, losses = SaliencyModel(TINY, temporal="none"), {}
    model.spatial.reduce.conv.register_forward_hook(
        lambda layer, inputs, output: seen.add((output.dtype, layer.weight.dtype))
    )
    torch.manual_seed(0)
    plain = SaliencyModel(TINY, temporal="none")
    model.load_state_dict(plain.state_dict())
    for precision, network in (("32-true", plain), ("bf16-mixed", model)):
        config = dataclasses.replace(config, precision=precision)
        samples, folder = DiscSamples(TINY.input_spec), tmp_path / precision
        Trainer(
            launch("cpu", 1, precision), config, network, samples, folder, RunOptions(scalars=1, pictures=8)
        ).train()
        lines = (folder / "log.jsonl").read_text().splitlines()
        losses[precision] = torch.tensor([json.loads(line)["train/loss"] for line in lines])
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} <= {
            torch.float32,
            torch.int64,
        }
    assert seen == {(torch.bfloat16, torch.float32)}
    assert not torch.equal(*losses.values())
    torch.testing.assert_close(*losses.values(), rtol=0.05, atol=0)
    state = torch.load(
        io.BytesIO((tmp_path / "bf16-mixed/checkpoints/step-000000008.ckpt").read_bytes().partition(b"\n")[2])
    )
    assert state["average"]["module.head.weight"].dtype == torch.float32


# -- records -----------------------------------------------------------------------------------------------------------


def test_the_best_model_is_kept(tmp_path):
    """That of the second of four validations, at steps 0, 2, 4 and 5, with the averaged weights."""
    scores, seen = iter([0.1, 0.5, 0.4, 0.3]), []

    def validation(model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"max_f": next(scores)}

    config = small_config(steps=5, ema=0.9)
    samples = DiscSamples(TINY.input_spec)
    model = SaliencyModel(TINY, temporal="none")
    metrics = Trainer(launch("cpu"), config, model, samples, tmp_path, RunOptions(validate=2), validation).train()
    assert (metrics["best"], metrics["best_step"], metrics["validation"]) == ({"max_f": 0.5}, 2, {"max_f": 0.3})
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics and metrics["samples"] == 20
    for name, states in (("best", seen[1]), ("model", seen[3])):
        stored = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(stored[key], states[key]) for key in states)
    weight = "head.weight"
    assert not torch.equal(seen[3][weight], model.state_dict()[weight]) and not torch.equal(
        seen[1][weight], seen[3][weight]
    )


def test_tensorboard_has_scalars_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, small_config("temporal", steps=4), RunOptions(scalars=2, pictures=4))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [2, 4]
    for name in ("train/loss", "train/mae", "train/cross_entropy", "train/lr"):
        assert [event.value for event in board.Scalars(name)] == pytest.approx([line[name] for line in logged])
    assert [(image.step, image.width, image.height) for image in board.Images("samples")] == [(4, 3 * 33, 3 * 33)]


def test_a_sheet_shows_what_the_network_saw():
    spec = dataclasses.replace(LITE.input_spec, height=8, width=8)
    frames = [np.full((8, 8, 3), colour, np.uint8) for colour in ((250, 10, 20), (0, 0, 0))]  # BGR
    masks, saliency = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    masks[1] = 1
    sheet = sample_sheet(spec.prepare(frames), masks, saliency, spec)
    assert sheet.shape == (24, 16, 3)
    assert sheet[0, 0].tolist() == [20, 10, 250] and sheet[0, 8].tolist() == [0, 0, 0]
    assert sheet[8, 0].tolist() == [0, 0, 0] and sheet[8, 8].tolist() == [255, 255, 255]
    assert sheet[16, 0].tolist() == [128, 128, 128]


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_overfits_a_few_real_clips(tmp_path):
    """Both stages on three sequences, with a tiny network on an ImageNet backbone: J on the training frames rises from
    near zero, and stage temporal adds to what stage spatial gained."""
    sequences = {"davis16_train": ("bear", "tennis"), "segtrack_part": ("girl",)}
    videos = [
        dataclasses.replace(video, frames=video.frames[:10], masks=video.masks[:10])
        for name, wanted in sequences.items()
        for video in open_dataset(str(shared_path(f"data/{name}")), None).videos
        if video.name in wanted
    ]
    fabric = launch("cpu")
    start, scores, losses = None, {}, {}
    for stage, steps, batch, lr in (("spatial", 60, 4, 3e-3), ("temporal", 30, 2, 1e-3)):
        config = dataclasses.replace(
            modern(stage), steps=steps, batch=batch, warmup=5, lr=lr, size=(81, 81), ema=0.9, augmentation="none"
        )
        lite = None if start else dataclasses.replace(LITE, input_size=(81, 81), keep_aspect=False, refine="none")
        model = starting_model(stage, lite, None, start=start, backbone_weights=None, seed=0, remark=print)
        if stage == "spatial":
            scores["untrained"] = validate(model, videos, fabric.device)["j_mean"]
        stream = SampleStream(
            [VideoClips(videos)],
            [1.0],
            model.input_spec,
            length=config.length,
            seed=0,
            count=steps * batch,
            augmentation=None,
        )
        Trainer(
            fabric, config, model, stream, tmp_path / stage, RunOptions(scalars=1, pictures=0, checkpoint=0)
        ).train()
        start = str(tmp_path / stage)
        trained = load_model(tmp_path / stage / "model.safetensors")
        assert trained.untrained is None
        scores[stage] = validate(trained, videos, fabric.device)["j_mean"]
        lines = (tmp_path / stage / "log.jsonl").read_text().splitlines()
        losses[stage] = [json.loads(line)["train/loss"] for line in lines]
    print(scores, {stage: (sum(values[:5]) / 5, sum(values[-5:]) / 5) for stage, values in losses.items()})
    assert scores["untrained"] < 0.3
    assert scores["spatial"] > 0.5
    assert scores["temporal"] > scores["spatial"]
    # The temporal part started at zero; now the maps depend on it.
    clip = stream[0]["clip"].unsqueeze(0)
    with torch.no_grad():
        whole = trained(clip)
        trained.residual.weight.zero_(), trained.residual.bias.zero_()
        assert (whole.sigmoid() - trained(clip).sigmoid()).abs().max() > 0.01
    assert sum(losses["spatial"][-10:]) < 0.35 * sum(losses["spatial"][:10])


def test_loading_by_workers_changes_nothing():
    samples = DiscSamples(TINY.input_spec, 2)
    numbers = [[0, 1], [5, 3]]
    for here, there in zip(load_batches(samples, numbers, 0), load_batches(samples, numbers, 2), strict=True):
        assert torch.equal(here["clip"], there["clip"]) and here["name"] == there["name"]
