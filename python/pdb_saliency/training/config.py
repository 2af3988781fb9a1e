"""What a training run is: `TrainConfig`, which decides its outcome, the two presets, and `RunOptions`, which does not.

The paper's learning rate (§3.3: SGD, 1e-6) belongs to Caffe's loss layers, which sum over pixels. Its training files
were not released; those of the authors' next network, made with the same Caffe, use SigmoidCrossEntropyLoss, whose
default normalisation is BATCH_SIZE: the sum over all pixels of all frames is divided by the number of frames alone.
With P = 473 * 473 = 223,729 pixels a frame, that loss is P times the mean loss of Eq. 8 and 9, as is its gradient g:

    Caffe:    v <- 0.9 v + 1e-6 (P g + 0.0005 w),       w <- w - v
    PyTorch:  v <- 0.9 v + (g + d w),                   w <- w - r v

are the same steps for r = 1e-6 * P = 0.223729 and d = 0.0005 / P = 2.235e-9 (the rate never changes, so it does not
matter that Caffe applies it inside v). The number of frames H = 5 does not enter, since both losses divide by it; if
Caffe was set not to normalise at all (NONE), r would be 5 times as large, and d a fifth. The paper names neither a
schedule (hence a fixed rate) nor a number of steps.

The released model's batch normalisation is frozen in every layer, presumably with the statistics of the network it
started from. Here the PDC, the reduction and the decoder start at random, without any statistics: frozen like this,
they are not normalised at all, and this rate makes the light model's loss infinite within three steps (97x97, seed 0:
44, 7.5e8, then not finite). Their batch normalisation is therefore trained in stage spatial, where the same run stays
between 0.3 and 2.8, and frozen in all later stages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from pdb_saliency.errors import InputError
from pdb_saliency.model.config import MAX_PIXELS, MAX_SIZE
from pdb_saliency.options import AUGMENTATIONS, BATCH_NORMS, STAGES, TRAINING_PRECISIONS

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("fixed", "cosine")

CAFFE_PIXELS = 473 * 473


@dataclass(frozen=True)
class TrainConfig:
    """The outcome of a run is a function of these entries (and of the machine's rounding).

    stage: "spatial" (frame by frame), "temporal" (spatial weights frozen) or "joint" (all weights).
    batch: samples a step, in all processes together. length: frames of a sample. size: (height, width) of the frames in
        pixels; None: the model's input size, which `train` fills in.
    optimizer: "sgd" or "adamw". lr: for the mean loss. backbone_lr: factor on `lr` for the backbone.
    schedule: "fixed", or "cosine" down to zero; warmup: steps of linear rise before either.
    clip_norm: largest norm of the whole gradient (0: no limit). ema: decay of the weights' moving average (0: off).
    precision: "32-true", "bf16-mixed", or "auto": bf16-mixed on a GPU that supports it. accumulate: parts in which a
        process computes its share of a batch, to save memory.
    batch_norm: "frozen"; "new_layers": frozen in the backbone, trained elsewhere in stage spatial, frozen in the other
        stages; "train". The statistics are those of the whole batch, whatever the number of processes, but with
        `accumulate` those of each part.
    freeze: patterns (as for file names) of further parameters that are not trained.
    iou_weight: of the soft IoU loss, which the paper does not have. augmentation: "paper", "modern" or "none".
    cache: samples whose frozen features are stored and trained on again and again (0: off; stage temporal only).
    model: the entries of a ModelConfig. start: digest of the initial weights. data: what is trained on, in words.
        `train` fills in these three.

    Raises ValueError, which names the entry.
    """

    stage: str
    steps: int
    batch: int
    length: int
    optimizer: str
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    backbone_lr: float = 1.0
    schedule: str = "fixed"
    warmup: int = 0
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: str = "32-true"
    accumulate: int = 1
    freeze: tuple[str, ...] = ()
    batch_norm: str = "frozen"
    iou_weight: float = 0.0
    augmentation: str = "paper"
    size: tuple[int, int] | None = None
    seed: int = 0
    cache: int = 0
    model: dict = dataclasses.field(default_factory=dict)
    start: str = ""
    data: tuple[str, ...] = ()

    def __post_init__(self):
        choices = {"stage": STAGES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": TRAINING_PRECISIONS}
        choices |= {"batch_norm": BATCH_NORMS, "augmentation": AUGMENTATIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("steps", "batch", "length", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip_norm", "iou_weight", "seed", "cache", "backbone_lr"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to less than 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.size is not None:
            _check_size(self.size)
        if self.cache and self.stage != "temporal":
            raise ValueError(
                f"only stage temporal has frozen features to cache, got cache={self.cache} in stage {self.stage}"
            )

    def to_dict(self) -> dict:
        """Plain values, as JSON knows them."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> TrainConfig:
        """The inverse of `to_dict`. Raises ValueError, which names a wrong entry."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            wrong = sorted(map(str, names ^ set(values))) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"a training configuration has other entries than this version knows: {wrong}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def difference(self, other: dict) -> str | None:
        """The first entry in which `other` (from `to_dict`) differs, in words; None if the run can be continued.

        With a fixed rate the number of steps may differ: a longer run passes through the shorter one.
        """
        mine, free = self.to_dict(), {"steps"} if self.schedule == "fixed" else set()
        for name in [*mine, *sorted(set(other) - set(mine))]:
            if name not in free and (name not in other or name not in mine or mine[name] != other[name]):
                return _describe(name, other.get(name), mine.get(name))
        return None


@dataclass(frozen=True)
class RunOptions:
    """What does not change the outcome of a run. The counts are steps between two events; 0 is never.

    workers: processes that make samples; 0 makes them in the training process; None: 8 with a GPU, else 1.
    validate: validation also takes place before the first step and after the last one.
    scalars, pictures: how often the loss, and samples with their predictions, are logged.
    on_stop: called when Ctrl-C or SIGTERM asks the run to stop after its step; from the signal handler, so it may
        neither print nor log.
    """

    workers: int | None = 0
    checkpoint: int = 200
    validate: int = 500
    scalars: int = 10
    pictures: int = 500
    on_stop: Callable[[], None] | None = None


def paper(stage: str) -> TrainConfig:
    """The paper's: five frames a step, whether stills, video frames or one clip."""
    return TrainConfig(
        stage=stage,
        steps=20_000,
        batch=5 if stage == "spatial" else 1,
        length=1 if stage == "spatial" else 5,
        optimizer="sgd",
        lr=1e-6 * CAFFE_PIXELS * (0.1 if stage == "joint" else 1),  # Stage joint is not the paper's: the tenth is ours.
        momentum=0.9,
        weight_decay=0.0005 / CAFFE_PIXELS,
        batch_norm="new_layers",
    )


def modern(stage: str) -> TrainConfig:
    """AdamW, cosine with warm-up, averaged weights, mixed precision if the device supports it."""
    return TrainConfig(
        stage=stage,
        steps=5_000,
        batch=12 if stage == "spatial" else 4,
        length=1 if stage == "spatial" else 5,
        optimizer="adamw",
        lr={"spatial": 1e-3, "temporal": 1e-3, "joint": 1e-4}[stage],
        weight_decay=1e-2,
        backbone_lr=0.2,
        schedule="cosine",
        warmup=200,
        clip_norm=1.0,
        ema=0.998,
        precision="auto",
        batch_norm="new_layers",
        augmentation="modern",
    )


PRESETS = {"paper": paper, "modern": modern}


def preset(name: str, stage: str, **entries: object) -> TrainConfig:
    """The preset "paper" or "modern" for a stage, with some entries of TrainConfig replaced, such as steps=2000.

    Its warm-up becomes a tenth of the steps if it is longer than that, unless `warmup` is among the entries.
    Raises InputError, which names a wrong entry.
    """
    if name not in PRESETS or stage not in STAGES:
        raise InputError(
            f"expected a preset ({', '.join(PRESETS)}) and a stage ({', '.join(STAGES)}), got {name!r} and {stage!r}"
        )
    try:
        config = dataclasses.replace(PRESETS[name](stage), **entries)
    except (TypeError, ValueError) as error:  # TypeError: there is no such entry.
        raise InputError(str(error)) from error
    if "warmup" not in entries and config.warmup > config.steps // 10:
        config = dataclasses.replace(config, warmup=config.steps // 10)
    return config


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"size must be (height, width) of at least 16 pixels, got {size}")
    if size[0] * size[1] > MAX_PIXELS or max(size) > MAX_SIZE:
        raise ValueError(f"size must be at most {MAX_PIXELS} pixels, and {MAX_SIZE} a side, got {size}")


def _plain(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _describe(name: str, theirs: object, mine: object) -> str:
    if isinstance(theirs, dict) and isinstance(mine, dict):
        inner = next(key for key in sorted({*theirs, *mine}) if theirs.get(key) != mine.get(key))
        return _describe(f"{name}.{inner}", theirs.get(inner), mine.get(inner))
    if isinstance(theirs, list) and isinstance(mine, list) and name == "data":
        only = [item for item in theirs if item not in mine] or ["(nothing)"]
        here = [item for item in mine if item not in theirs] or ["(nothing)"]
        return f"{name} has {', '.join(only)} there and {', '.join(here)} here"
    return f"{name} is {theirs} there and {mine} here"
