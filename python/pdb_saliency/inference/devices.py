"""Devices: their names, the one that each process uses, and moving a model there."""

from __future__ import annotations

import os
import re

import torch
from torch import nn

from pdb_saliency.errors import SaliencyError, one_line

_DEVICES = r"auto|cpu|mps|(cuda|xpu)(:[0-9]+)?"


def resolve_device(name: str) -> torch.device:
    """The device called `name` ("auto": CUDA if available, else the CPU), checked to work. Raises SaliencyError."""
    if not re.fullmatch(_DEVICES, name):  # torch knows many more, some of which fail in their own ways.
        raise SaliencyError(f"device {name!r} cannot be used: expected auto, cpu, cuda, cuda:1, ..., mps or xpu")
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch without CUDA.
        raise SaliencyError(f"device {name!r} cannot be used: {one_line(error, name=False)}") from error
    return device


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device. Raises SaliencyError when it does not fit."""
    try:
        return model.to(device)
    except RuntimeError as error:
        raise SaliencyError(f"device '{device}' cannot hold the model: {one_line(error, name=False)}") from error


def device_of_process(name: str) -> str:
    """The device called `name`; under torchrun "auto" and "cuda" are the GPU with this process's local rank."""
    if name not in ("auto", "cuda") or not os.environ.get("LOCAL_RANK", "").isdigit():
        return name
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}" if count else name
