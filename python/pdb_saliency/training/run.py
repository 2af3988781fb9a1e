"""Training as one function call: `train` is what the command line, the experiments and notebooks call.

    from pdb_saliency.training import InitialModel, Sources, preset, train

    config = preset("modern", "spatial", steps=2000, batch=8, size=(257, 257))
    sources = Sources(["stills", ("davis-2016:train", 0.5)], val=["davis-2016:val"], root="datasets")
    metrics = train(config, sources, "runs/spatial", model=InitialModel("lite"))

The same call goes on with a run that was interrupted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pdb_saliency.data import augment
from pdb_saliency.data.mix import Mix, mix_clips
from pdb_saliency.data.preview import preview
from pdb_saliency.data.sets.check import open_checked, videos_of
from pdb_saliency.data.sets.items import Dataset, Video
from pdb_saliency.data.stream import SampleStream
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.validate import combine, score_videos
from pdb_saliency.model.config import NETWORKS, ModelConfig
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.options import CLIP_KINDS, PRESETS

from .config import RunOptions, TrainConfig
from .distributed import check_packages, in_each, in_first, launch
from .initial_model import starting_model, weights_digest
from .loader import Share
from .trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)

_AUGMENTATIONS = {"paper": augment.PAPER, "modern": augment.MODERN, "none": None}
_PREVIEWED = 12

# A name below the root or a folder, see `open_dataset`; or a data set that has been checked already.
DatasetLike = str | Path | Dataset


@dataclass(frozen=True)
class Sources:
    """What a run is trained on, and what it is validated on.

    train: data sets, or pairs (data set, weight): each picture and each annotated frame of a set counts `weight` times.
    val: data sets of videos; none for no validation. val_every: validate on every n-th clip only.
    clips: kind of clip -> share of the samples, see options.CLIP_KINDS; or the preset whose kinds are used, as far as
        the sets have pictures for them: "modern" is all kinds alike, "paper" is video alone, or copies of stills if
        there is no video. In stage spatial both mean every still and every annotated frame alike.
    cutouts: folder of RGBA pictures that join the cut-outs made of the stills.
    root: folder that holds the data sets. broken: "refuse" or "skip" broken pairs, see `check_dataset`.
    """

    train: Sequence[DatasetLike | tuple[DatasetLike, float]]
    val: Sequence[DatasetLike] = ()
    clips: Mapping[str, float] | str = "paper"
    cutouts: str | Path | None = None
    val_every: int = 1
    root: str | Path | None = None
    broken: str = "refuse"


@dataclass(frozen=True)
class InitialModel:
    """The model that a run begins with; see `starting_model`.

    network: one of options.NETWORKS, or a configuration; None: that of `weights`, or "paper" without any.
    weights: a model file, the folder of a finished run, or a name (`pdb-saliency info` lists them). Stages temporal and
        joint need it.
    temporal: one of options.TEMPORAL_KINDS; None: that of `weights`, or "pdb_convlstm". motion: one of options.MOTIONS;
        None: the network's. Stage spatial has neither.
    input_size: (height, width) at which the model predicts; None: its own.
    backbone_weights: ImageNet weights for ResNet-50, see `load_resnet_weights`.
    """

    network: str | ModelConfig | None = None
    weights: str | Path | None = None
    temporal: str | None = None
    motion: str | None = None
    input_size: tuple[int, int] | None = None
    backbone_weights: str | Path | None = None


def train(
    config: TrainConfig,
    sources: Sources,
    out: str | Path,
    *,
    model: InitialModel = InitialModel(),
    device: str = "auto",
    devices: int = 1,
    options: RunOptions = RunOptions(workers=None),
) -> dict:
    """Train a model into the folder `out`, or go on with the run that was interrupted there.

    config: see `preset`; its entries model, start, data, and size if None, are filled in.
    device: "auto", "cpu" or "cuda".
    devices: processes on this machine, one for each GPU. For more than one, Fabric starts the calling script once more
        for each of the others, so a notebook can only use one. Under torchrun, its number of processes is used instead.

    Returns what `out`/metrics.json holds, in every process: "stage", "steps", "samples", "loss" (of the last step),
    "validation" (the last scores, see `validate`; None without validation), "best" and "best_step" (by max F). The
    other files in `out` are listed at `Trainer`. Notes go to the log, and progress bars appear after `show_progress()`.

    Raises InputError for wrong data, weights, options, or an `out` that holds another run; WeightsError, OutputError;
    SaliencyError if the loss is not finite, or packages or the device are missing; KeyboardInterrupt after Ctrl-C, once
    a checkpoint is written. Of several processes, the first one or the one that failed raises the error, and the others
    raise SystemExit.
    """
    check_packages()
    fabric = launch(device, devices, config.precision)
    run = _prepare(fabric, config, sources, model)
    if fabric.global_rank == 0:
        _report(fabric, run)
    validation = _validation(fabric, run.videos, sources.val_every) if run.videos else None
    options = dataclasses.replace(options, validate=options.validate if run.videos else 0)
    return Trainer(fabric, run.config, run.model, run.samples, Path(out), options, validation).train()


def preview_samples(
    config: TrainConfig,
    sources: Sources,
    file: str | Path,
    *,
    model: InitialModel = InitialModel(),
    device: str = "auto",
    devices: int = 1,
) -> None:
    """Write a picture (PNG) of the first samples that `train` would see, and train nothing. Arguments as in `train`."""
    check_packages()
    fabric = launch(device, devices, config.precision)
    samples = _prepare(fabric, config, sources, model).samples
    if fabric.global_rank == 0:
        preview(samples, min(_PREVIEWED, len(samples)), Path(file))


@dataclass(frozen=True)
class _Run:
    config: TrainConfig
    model: SaliencyModel
    samples: SampleStream
    videos: list[Video]


def _prepare(fabric: Fabric, config: TrainConfig, sources: Sources, initial: InitialModel) -> _Run:
    """What `Trainer` needs. The cheap checks come first. Raises InputError, WeightsError."""
    in_first(fabric, lambda: Share(0, fabric.world_size, config.batch))
    sets, videos = in_first(fabric, lambda: _open(sources))
    mix = _mix(sources, config.stage, sets)
    model = _model(initial, config, remark=_log.warning if fabric.global_rank == 0 else lambda *_: None)
    config = _complete(config, model, mix)
    return _Run(config, model, _samples(config, model, mix), videos)


def _report(fabric: Fabric, run: _Run) -> None:
    for line in run.config.data:
        _log.info("data: %s", line, extra={"kind": "note"})
    if run.config.size != run.model.config.input_size:
        trained, own = ("x".join(map(str, pair)) for pair in (run.config.size, run.model.config.input_size))
        text = "training at %s; validation and `predict` use the model's input size, %s (--input-size)"
        _log.info(text, trained, own, extra={"kind": "note"})
    processes = f"{fabric.world_size} x {fabric.device}"
    _log.info("%s, on %s, %s", run.model.description, processes, run.config.precision)


# -- data --------------------------------------------------------------------------------------------------------------


def _open(sources: Sources) -> tuple[list[tuple[Dataset, float]], list[Video]]:
    """The data sets to train on with their weights, and the videos to validate on, all checked."""
    root = Path(sources.root) if sources.root is not None else None

    def opened(entry: DatasetLike) -> Dataset:
        return entry if isinstance(entry, Dataset) else open_checked(str(entry), root, sources.broken)

    pairs = [entry if isinstance(entry, tuple) else (entry, 1.0) for entry in _listed(sources.train)]
    sets = [(opened(entry), weight) for entry, weight in pairs]
    return sets, [video for entry in _listed(sources.val) for video in videos_of(opened(entry), _name(entry))]


def _name(entry: DatasetLike) -> str | None:
    return None if isinstance(entry, Dataset) else str(entry)


def _listed(entries: Sequence | DatasetLike) -> list:
    """A single data set counts as a list of one."""
    return [entries] if isinstance(entries, (str, Path, Dataset)) else list(entries)


def _mix(sources: Sources, stage: str, sets: list[tuple[Dataset, float]]) -> Mix:
    clips, cutouts = sources.clips, Path(sources.cutouts) if sources.cutouts is not None else None
    if not isinstance(clips, str):
        if not set(clips) <= set(CLIP_KINDS) or not all(0 <= share < float("inf") for share in clips.values()):
            raise InputError(f"clips must give {', '.join(CLIP_KINDS)} shares of at least 0, got {dict(clips)}")
        return mix_clips(sets, clips, cutouts)
    if clips not in PRESETS:
        raise InputError(f"clips must be shares or one of {', '.join(PRESETS)}, got {clips!r}")
    if stage == "spatial":
        return mix_clips(sets, None, cutouts)
    if clips == "modern":
        shares = dict.fromkeys(CLIP_KINDS, 1.0)
    else:  # The paper's second stage sees only video.
        shares = {"video": 1.0} if any(dataset.videos for dataset, _ in sets) else {"copies": 1.0}
    return mix_clips(sets, shares, cutouts, required=False)


def _samples(config: TrainConfig, model: SaliencyModel, mix: Mix) -> SampleStream:
    height, width = config.size
    return SampleStream(
        mix.sources,
        mix.weights,
        dataclasses.replace(model.input_spec, height=height, width=width),
        length=config.length,
        seed=config.seed,
        count=max(config.steps * config.batch, config.cache),
        augmentation=_AUGMENTATIONS[config.augmentation],
    )


# -- model -------------------------------------------------------------------------------------------------------------


def _model(initial: InitialModel, config: TrainConfig, remark: Callable[[str], None]) -> SaliencyModel:
    network = initial.network
    if network is None and initial.weights is None:
        network = "paper"
    if isinstance(network, str) and network not in NETWORKS:
        raise InputError(f"the network must be one of {', '.join(NETWORKS)}, got {network!r}")
    try:
        return starting_model(
            config.stage,
            NETWORKS[network] if isinstance(network, str) else network,
            initial.temporal,
            initial.motion,
            start=str(initial.weights) if initial.weights is not None else None,
            backbone_weights=Path(initial.backbone_weights) if initial.backbone_weights is not None else None,
            seed=config.seed,
            remark=remark,
            input_size=initial.input_size,
        )
    except ValueError as error:  # Of ModelConfig, which names the entry.
        raise InputError(str(error)) from error


def _complete(config: TrainConfig, model: SaliencyModel, mix: Mix) -> TrainConfig:
    """The configuration with what is known only with the model and the data."""
    square = model.input_spec.fitted(1, 1)  # Stills are of every shape, so a square treats them alike.
    size = config.size or (square.height, square.width)
    if model.config.variant == "released" and size != model.config.input_size:
        raise InputError(f"the released variant trains at its own size, {model.config.input_size}, got {size}")
    values = {"size": size, "model": model.config.to_dict(), "start": weights_digest(model)[:16], "data": mix.words}
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        raise InputError(str(error)) from error


def _validation(fabric: Fabric, videos: list[Video], clips_every: int) -> Callable[[SaliencyModel], dict[str, float]]:
    """Scores of a model, computed by all processes: if one did it, all others would have to wait for it."""
    rank, world = fabric.global_rank, fabric.world_size

    def validation(model: SaliencyModel) -> dict[str, float]:
        parts = in_each(
            fabric, lambda: score_videos(model, videos[rank::world], fabric.device, clips_every=clips_every)
        )
        return combine([parts[number % world][number // world] for number in range(len(videos))])

    return validation
