"""The model that a stage starts from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pdb_saliency.errors import InputError, WeightsError
from pdb_saliency.model.backbones import BACKBONES, BackboneKind
from pdb_saliency.model.config import ModelConfig
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import load_model, weight_names

# The settings that the networks of two successive stages must share.
_SHARED = ("variant", "backbone", "width", "pdc", "pdc_dilations", "pdc_channels", "reduced_channels", "decoder")


def starting_model(
    stage: str,
    config: ModelConfig | None,
    temporal: str | None,
    motion: str | None = None,
    *,
    start: str | None,
    backbone_weights: Path | None,
    seed: int,
    remark: Callable[[str], None],
    input_size: tuple[int, int] | None = None,
) -> SaliencyModel:
    """The model to train, on the CPU.

    config: the network; None: that of `start`. temporal: its temporal module; None: "none" in stage spatial, else that
        of `start`, or "pdb_convlstm" if it has none. motion: what the module sees besides the features; None: that
        of `config`.
    start: a model file, the folder of a run, or a name that `load_model` knows. Its spatial weights and those of a
        decoder are copied, and all weights if the temporal modules are the same. Stages temporal and joint need it.
    backbone_weights: a file of ImageNet weights, for backbones with a `BackboneKind.load_file`, such as ResNet-50.
    remark: called with a line on what stays random.
    input_size: (height, width) at which the model predicts; None: its own.

    `untrained` of the result says what will still be random after training (None: nothing).
    Raises InputError, WeightsError; ValueError for a temporal module that does not exist.
    """
    if stage == "spatial" and temporal is not None:
        raise InputError(f"stage spatial has no temporal module, got --temporal {temporal}")
    if stage == "spatial" and motion is not None:
        raise InputError(f"stage spatial has no temporal module that could see motion, got --motion {motion}")
    if start is None:
        if stage != "spatial":
            raise InputError(
                f"stage {stage} continues from a trained model: expected --from with a model file or a run's folder"
            )
        return _new_model(_resized(config or ModelConfig(), input_size), backbone_weights, seed, remark)
    if backbone_weights:
        raise InputError("--backbone-weights begins a new model, and --from has its own weights: give one of them")
    earlier = load_model(model_file(start))
    config = _resized(config or earlier.config, input_size)
    if motion is not None:
        config = _with_motion(config, motion)
    _check_shared(earlier.config, config, start)
    config = dataclasses.replace(config, temporal=_temporal(stage, temporal, earlier.config.temporal))
    model = _seeded(config, seed)
    _copy_weights(earlier, model)
    model.untrained = earlier.untrained if stage == "temporal" else None
    return model


def _check_shared(earlier: ModelConfig, config: ModelConfig, start: str) -> None:
    for name in _SHARED:
        here, there = getattr(config, name), getattr(earlier, name)
        if here != there:
            raise InputError(f"{start}: its {name} is {there}, and the model to train has {here}")


def _temporal(stage: str, wanted: str | None, earlier: str) -> str:
    if stage == "spatial":
        return "none"
    if wanted == "none":
        raise InputError(f"stage {stage} trains a temporal module, and --temporal none leaves it out")
    return wanted or (earlier if earlier != "none" else "pdb_convlstm")


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all tensors of the module and their names, in hexadecimal."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _resized(config: ModelConfig, input_size: tuple[int, int] | None) -> ModelConfig:
    if input_size in (None, config.input_size):
        return config
    if config.variant == "released":
        raise InputError(
            f"the released variant has its own input size, {_pixels(config.input_size)}: leave --input-size out"
        )
    try:
        return dataclasses.replace(config, input_size=input_size)
    except ValueError as error:
        raise InputError(str(error)) from error


def _pixels(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _new_model(
    config: ModelConfig, backbone_weights: Path | None, seed: int, remark: Callable[[str], None]
) -> SaliencyModel:
    if config.variant == "released":
        raise InputError(
            "the released variant has frozen batch normalisation and cannot be trained from random weights: "
            "expected --from with the authors' .caffemodel"
        )
    model = _seeded(dataclasses.replace(config, temporal="none"), seed)
    model.untrained = None
    backbone = BACKBONES[config.backbone]
    if backbone_weights:
        if backbone.load_file is None:
            raise InputError(_not_for(backbone))
        backbone.load_file(model.spatial.backbone, backbone_weights, config.input_spec)
    elif backbone.load_installed is not None:
        backbone.load_installed(model.spatial.backbone)
    else:
        trained = ", or trained ones (--backbone-weights)" if backbone.load_file else ""
        remark(f"the {backbone.title} starts from random weights: it needs --batch-norm train{trained}")
    return model


def _not_for(backbone: BackboneKind) -> str:
    readers = " and ".join(kind.title for kind in BACKBONES.values() if kind.load_file)
    theirs = f"the ImageNet weights of {backbone.title} come from a package"
    return f"--backbone-weights is for {readers}; {theirs if backbone.load_installed else f'not {backbone.title}'}"


def _seeded(config: ModelConfig, seed: int) -> SaliencyModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SaliencyModel(config)


def _with_motion(config: ModelConfig, motion: str) -> ModelConfig:
    try:
        return dataclasses.replace(config, motion=motion)
    except ValueError as error:
        raise InputError(f"--motion {motion}: {error}") from error


def model_file(start: str) -> str:
    """The model file in a finished run's folder; anything else unchanged. Raises WeightsError for other folders."""
    folder = Path(start)
    if start in weight_names() or not folder.is_dir():
        return start
    if not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{start}: expected a model file or the folder of a finished run, which has a model.safetensors"
        )
    return str(folder / "model.safetensors")


def _copy_weights(earlier: SaliencyModel, model: SaliencyModel) -> None:
    parts = ["spatial"]
    if model.config.decoder == "skip":
        # The decoder reads the spatial features, to which the temporal part adds zero at first.
        parts.append("head")
    source = earlier.state_dict()
    whole = {name: tensor.shape for name, tensor in source.items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    if whole and earlier.config.temporal == model.config.temporal:
        model.load_state_dict(source)
        return
    for part in parts:
        getattr(model, part).load_state_dict(getattr(earlier, part).state_dict())
