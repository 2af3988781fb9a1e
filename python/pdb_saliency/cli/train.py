"""`pdb-saliency train`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdb_saliency.errors import InputError

from .console import say, tell
from .train_options import EXAMPLES, HELP, add_options

if TYPE_CHECKING:
    from pdb_saliency.data.mix import Mix
    from pdb_saliency.data.sets.items import Dataset, Video
    from pdb_saliency.data.stream import SampleStream
    from pdb_saliency.model.saliency import SaliencyModel
    from pdb_saliency.training.config import TrainConfig

# Options with the name of an entry of TrainConfig, which they replace.
_ENTRIES = (
    "steps",
    "batch",
    "length",
    "lr",
    "backbone_lr",
    "weight_decay",
    "warmup",
    "iou_weight",
    "ema",
    "batch_norm",
)
_ENTRIES += ("augmentation", "seed", "cache", "precision", "accumulate", "freeze")
_PREVIEWED = 12


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a model",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=train)
    add_options(parser)


def train(arguments: argparse.Namespace) -> None:
    from pdb_saliency.training.distributed import check_packages, launch
    from pdb_saliency.training.loader import Share
    from pdb_saliency.training.processes import in_first

    check_packages()
    config = _preset(arguments)
    fabric = launch(arguments.device, arguments.devices, config.precision)
    main = fabric.global_rank == 0
    in_first(fabric, lambda: Share(0, fabric.world_size, config.batch))
    remark = (lambda text: tell("note", text)) if main else (lambda text: None)
    sets, videos = in_first(
        fabric, lambda: (_training_sets(arguments), open_videos(arguments.val, arguments.data_root, arguments.broken))
    )
    mix = _mix(arguments, sets)
    model = _model(arguments, config.seed, remark)
    config = _complete(config, arguments, model, mix)
    samples = _samples(config, model, mix)
    if arguments.preview:
        if main:
            _preview(samples, arguments.preview)
        return
    for line in mix.words if main else ():
        tell("note", "data", line)
    if config.size != model.config.input_size:
        trained, own = ("x".join(map(str, pair)) for pair in (config.size, model.config.input_size))
        remark(f"training at {trained}; validation and `predict` use the model's input size, {own} (--input-size)")
    if main:
        tell("info", f"{model.description}, on {fabric.world_size} x {fabric.device}, {config.precision}")
    metrics = _run(arguments, fabric, config, model, samples, videos)
    if main:
        _report(metrics, arguments.output)


def _preset(arguments: argparse.Namespace) -> TrainConfig:
    from pdb_saliency.training.config import PRESETS

    given = {name: getattr(arguments, name) for name in _ENTRIES if getattr(arguments, name) is not None}
    if "freeze" in given:
        given["freeze"] = tuple(given["freeze"])
    try:
        config = dataclasses.replace(PRESETS[arguments.preset](arguments.stage), **given)
    except ValueError as error:
        raise InputError(str(error)) from error
    if arguments.warmup is None and config.warmup > config.steps // 10:
        config = dataclasses.replace(config, warmup=config.steps // 10)
    return config


def _training_sets(arguments: argparse.Namespace) -> list[tuple[Dataset, float]]:
    return [(_open(name, arguments.data_root, arguments.broken), weight) for name, weight in arguments.train]


def open_videos(names: list[str], data_root: Path | None, broken: str) -> list[Video]:
    """The checked videos of data sets. Raises InputError, also where a set has none."""
    videos = []
    for name in names:
        dataset = _open(name, data_root, broken)
        if not dataset.videos:
            raise InputError(f"{name}: validation needs videos, and this data set has none")
        videos += dataset.videos
    return videos


def _open(name: str, data_root: Path | None, broken: str) -> Dataset:
    from pdb_saliency.data.sets.catalog import open_dataset
    from pdb_saliency.data.sets.check import check_dataset

    return check_dataset(open_dataset(name, data_root), broken=broken)


def _mix(arguments: argparse.Namespace, sets: list[tuple[Dataset, float]]) -> Mix:
    from pdb_saliency.data.mix import CLIP_KINDS, mix_clips

    shares, required = arguments.clips, True
    if shares is None and arguments.stage != "spatial":
        required = False
        if arguments.preset == "modern":
            shares = dict.fromkeys(CLIP_KINDS, 1.0)
        else:  # The paper's second stage sees video alone.
            shares = {"video": 1.0} if any(dataset.videos for dataset, _ in sets) else {"copies": 1.0}
    return mix_clips(sets, shares, arguments.cutouts, required)


def _model(arguments: argparse.Namespace, seed: int, remark: Any) -> SaliencyModel:
    from pdb_saliency.model.config import LITE, PAPER, RELEASED
    from pdb_saliency.training.initial_model import starting_model

    named = {"lite": LITE, "paper": PAPER, "released": RELEASED, None: None if arguments.start else PAPER}
    return starting_model(
        arguments.stage,
        named[arguments.model],
        arguments.temporal,
        arguments.motion,
        start=arguments.start,
        backbone_weights=arguments.backbone_weights,
        seed=seed,
        remark=remark,
        input_size=arguments.input_size,
    )


def _complete(config: TrainConfig, arguments: argparse.Namespace, model: SaliencyModel, mix: Mix) -> TrainConfig:
    """With what is known once model and data are there."""
    from pdb_saliency.training.initial_model import weights_digest

    square = model.input_spec.fitted(1, 1)  # Stills lie and stand.
    size = arguments.size or (square.height, square.width)
    if model.config.variant == "released" and size != model.config.input_size:
        raise InputError(f"the released variant trains at its own size, {model.config.input_size}, got {size}")
    values = {"size": size, "model": model.config.to_dict(), "start": weights_digest(model)[:16], "data": mix.words}
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise InputError(str(error)) from error


def _samples(config: TrainConfig, model: SaliencyModel, mix: Mix) -> SampleStream:
    from pdb_saliency.data.augment import MODERN, PAPER
    from pdb_saliency.data.stream import SampleStream

    height, width = config.size
    return SampleStream(
        mix.sources,
        mix.weights,
        dataclasses.replace(model.input_spec, height=height, width=width),
        length=config.length,
        seed=config.seed,
        count=max(config.steps * config.batch, config.cache),
        augmentation={"paper": PAPER, "modern": MODERN, "none": None}[config.augmentation],
    )


def _preview(samples: SampleStream, file: Path) -> None:
    from pdb_saliency.data.preview import preview

    preview(samples, min(_PREVIEWED, len(samples)), file)
    say(f"samples -> {file}")


def _run(
    arguments: argparse.Namespace,
    fabric: Any,
    config: TrainConfig,
    model: SaliencyModel,
    samples: SampleStream,
    videos: list[Video],
) -> dict:
    from pdb_saliency.training.trainer import RunOptions, Trainer

    def validation(candidate: SaliencyModel) -> dict[str, float]:
        from pdb_saliency.evaluation.validate import combine, score_videos
        from pdb_saliency.training.processes import in_each

        rank, world = fabric.global_rank, fabric.world_size
        mine = videos[rank::world]  # A long validation by one process would keep all others waiting.
        parts = in_each(fabric, lambda: score_videos(candidate, mine, fabric.device, clips_every=arguments.val_every))
        return combine([parts[number % world][number // world] for number in range(len(videos))])

    workers = arguments.workers if arguments.workers is not None else (8 if fabric.device.type == "cuda" else 1)
    options = RunOptions(
        workers,
        arguments.checkpoint,
        arguments.validate if videos else 0,
        arguments.scalars,
        pictures=arguments.validate,
    )
    return Trainer(fabric, config, model, samples, arguments.output, options, validation if videos else None).train()


def _report(metrics: dict, run: Path) -> None:
    scores = metrics["validation"] or {}
    words = "".join(f", {name} {value:.4f}" for name, value in scores.items() if isinstance(value, float))
    say(f"{metrics['steps']} steps, loss {metrics['loss']:.4f}{words} -> {run / 'model.safetensors'}")
    if metrics["best"]:
        say(
            f"best max F {metrics['best']['max_f']:.4f} after step {metrics['best_step']} -> {run / 'best.safetensors'}"
        )
