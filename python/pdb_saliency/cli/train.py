"""`pdb-saliency train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .arguments import add_command
from .console import announce_stop, say
from .train_options import EXAMPLES, HELP, add_options

# Options with the name of an entry of TrainConfig, which they replace. --freeze is one more, a list.
_ENTRIES = (
    "steps",
    "batch",
    "length",
    "size",
    "lr",
    "backbone_lr",
    "weight_decay",
    "warmup",
    "iou_weight",
    "ema",
    "batch_norm",
    "augmentation",
    "seed",
    "cache",
    "precision",
    "accumulate",
)


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "train", train, help="train a model", description=HELP, epilog=EXAMPLES)
    add_options(parser)


def train(arguments: argparse.Namespace) -> None:
    from pdb_saliency import training
    from pdb_saliency.training.distributed import is_first

    call, out = train_call(arguments), arguments.output
    if arguments.preview:
        training.preview_samples(file=arguments.preview, **call)
        if is_first():
            say(f"samples -> {arguments.preview}")
        return
    metrics = training.train(out=out, options=run_options(arguments), **call)
    if is_first():
        report(metrics, out)


def parse(options: Sequence[str]) -> argparse.Namespace:
    """Parse the options of `pdb-saliency train`, for scripts that take the same ones. Wrong ones exit with code 2."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    return parser.parse_args(options)


def train_call(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that `training.train` and `training.preview_samples` share. Raises InputError."""
    from pdb_saliency.training import InitialModel, Sources, preset

    given = {name: getattr(arguments, name) for name in _ENTRIES if getattr(arguments, name) is not None}
    if arguments.freeze is not None:
        given["freeze"] = tuple(arguments.freeze)
    sources = Sources(
        arguments.train,
        val=arguments.val,
        clips=arguments.clips or arguments.preset,
        cutouts=arguments.cutouts,
        val_every=arguments.val_every,
        root=arguments.data_root,
        broken=arguments.broken,
    )
    model = InitialModel(
        arguments.model,
        weights=arguments.start,
        temporal=arguments.temporal,
        motion=arguments.motion,
        input_size=arguments.input_size,
        backbone_weights=arguments.backbone_weights,
    )
    config = preset(arguments.preset, arguments.stage, **given)
    return {
        "config": config,
        "sources": sources,
        "model": model,
        "device": arguments.device,
        "devices": arguments.devices,
    }


def run_options(arguments: argparse.Namespace) -> Any:
    """The RunOptions that the arguments ask for."""
    from pdb_saliency.training import RunOptions

    every = arguments.validate
    options = arguments.workers, arguments.checkpoint, every, arguments.scalars
    return RunOptions(*options, pictures=every, on_stop=announce_stop)


def report(metrics: dict, run: Path) -> None:
    """Print the result of `training.train` in a line or two."""
    scores = metrics["validation"] or {}
    words = "".join(f", {name} {value:.4f}" for name, value in scores.items() if isinstance(value, float))
    say(f"{metrics['steps']} steps, loss {metrics['loss']:.4f}{words} -> {run / 'model.safetensors'}")
    if metrics["best"]:
        best = metrics["best"]["max_f"]
        say(f"best max F {best:.4f} after step {metrics['best_step']} -> {run / 'best.safetensors'}")
