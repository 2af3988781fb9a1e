"""The model that a stage starts with."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pdb_saliency.errors import InputError, WeightsError
from pdb_saliency.model.backbones.efficientnet import load_imagenet_weights
from pdb_saliency.model.backbones.imagenet import load_resnet_weights
from pdb_saliency.model.config import ModelConfig
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import load_model, weight_names

# What the weights of one stage must have in common with those of the next.
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

    config: the network, None for that of `start`. temporal: its temporal module; None for "none" in stage spatial, else for
        that of `start`, and "pdb_convlstm" where it has none. motion: what that sees besides; None for config's.
    start: a model file, a run's folder, or a name that `load_model` knows. Its spatial weights are taken; those of the
        decoder, too; everything where the temporal modules are the same. Stages temporal and joint need it.
    backbone_weights: an ImageNet ResNet-50, see `load_resnet_weights`. remark: told what stays random.
    input_size: (height, width) at which the model predicts, in place of its own.

    `untrained` of the result says what will be random after training (None: nothing).
    Raises InputError, WeightsError.
    """
    if stage == "spatial" and temporal is not None:
        raise InputError(f"stage spatial has no temporal module, got --temporal {temporal}")
    if stage == "spatial" and motion is not None:
        raise InputError(f"stage spatial has no temporal module for motion to be shown to, got --motion {motion}")
    if start is None:
        if stage != "spatial":
            raise InputError(
                f"stage {stage} goes on from a trained model: expected --from with a model file or a run's folder"
            )
        if config is not None and config.variant == "released":
            raise InputError(
                "the released variant has frozen batch normalisation and cannot be trained from random weights: "
                "expected --from with the authors' .caffemodel"
            )
        config = _resized(config or ModelConfig(), input_size)
        return _new_model(dataclasses.replace(config, temporal="none"), backbone_weights, seed, remark)
    if backbone_weights:
        raise InputError(
            "--backbone-weights begins a new model, and --from brings weights of its own: give one of them"
        )
    earlier = load_model(model_file(start))
    config = _resized(config or earlier.config, input_size)
    if motion is not None:
        config = _with_motion(config, motion)
    for name in _SHARED:
        if getattr(config, name) != getattr(earlier.config, name):
            here, there = getattr(config, name), getattr(earlier.config, name)
            raise InputError(f"{start}: its {name} is {there}, and the model to train has {here}")
    if temporal is None:
        temporal = earlier.config.temporal if earlier.config.temporal != "none" else "pdb_convlstm"
    temporal = "none" if stage == "spatial" else temporal
    if stage != "spatial" and temporal == "none":
        raise InputError(f"stage {stage} trains a temporal module, and --temporal none leaves it out")
    model = _seeded(dataclasses.replace(config, temporal=temporal), seed)
    _copy_weights(earlier, model)
    model.untrained = earlier.untrained if stage == "temporal" else None
    return model


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all its tensors and their names."""
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
    model = _seeded(config, seed)
    model.untrained = None
    if config.backbone == "efficientnet_lite0":
        if backbone_weights:
            raise InputError(
                "--backbone-weights is for ResNet-50; EfficientNet-Lite0 has its ImageNet weights in a package"
            )
        load_imagenet_weights(model.spatial.backbone)
    elif backbone_weights:
        load_resnet_weights(model.spatial.backbone, backbone_weights, config.input_spec)
    else:
        remark(
            "the ResNet-50 starts from random weights; it needs --batch-norm train, or trained ones by --backbone-weights"
        )
    return model


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
    """The file of a finished run's folder; anything else as it is. Raises WeightsError for another folder."""
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
        # It reads the spatial features, to which the temporal part adds zero at first.
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
