"""Which parameters each stage trains, and by which rule."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pdb_saliency.errors import InputError
from pdb_saliency.model.layers import freeze_batch_norm
from pdb_saliency.model.saliency import SaliencyModel

from .config import TrainConfig


def set_training_mode(model: SaliencyModel, config: TrainConfig) -> None:
    """Put the model into training mode, but what the stage freezes into eval mode without gradients.

    Raises InputError for a pattern of `freeze` that fits nothing.
    """
    model.train()
    if config.batch_norm == "new_layers":
        freeze_batch_norm(model.spatial.backbone if config.stage == "spatial" else model)
    elif config.batch_norm == "frozen":
        freeze_batch_norm(model)
    if config.stage == "temporal":
        model.spatial.eval().requires_grad_(False)
    for pattern in config.freeze:
        named = [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
        if not named:
            raise InputError(f"--freeze {pattern} fits no parameter of the model, which has {_some_names(model)}, ...")
        for parameter in named:
            parameter.requires_grad_(False)


def _some_names(model: SaliencyModel) -> str:
    return ", ".join([name for name, _ in model.named_parameters()][::40][:4])


def build_optimizer(model: SaliencyModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require gradients. Call `set_training_mode` before. Raises InputError.

    Each group's `scale` is a factor on the learning rate. SGD applies weight decay to every parameter, as Caffe does;
    AdamW only to tensors of two or more dimensions, which excludes biases and normalisation, as is usual.
    """
    backbone = {id(parameter) for parameter in model.spatial.backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = config.backbone_lr if id(parameter) in backbone else 1.0
            decayed = config.optimizer == "sgd" or parameter.dim() > 1
            groups.setdefault((scale, config.weight_decay if decayed else 0.0), []).append(parameter)
    if not groups:
        raise InputError("every parameter is frozen: there is nothing to train")
    parameters = [{"params": group, "scale": scale, "weight_decay": decay} for (scale, decay), group in groups.items()]
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(parameters, lr=config.lr)


def set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Set the learning rate of step `step` (from 0), a function of the step alone.

    Returns it without the groups' scales.
    """
    rate = config.lr * min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "cosine" and step >= config.warmup:
        rate *= (1 + math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate


def moving_average(model: SaliencyModel, decay: float) -> AveragedModel | None:
    """The exponential moving average of the weights, to be updated after every step; None for decay 0.

    At step n the decay is at most (1 + n) / (10 + n), so that a short run forgets its random initial weights.
    """
    if not decay:
        return None

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))
        else:  # The counters of batch normalisation.
            torch._foreach_copy_(averaged, current)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
