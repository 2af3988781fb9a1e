"""Devices, processes and precision, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from pdb_saliency.errors import SaliencyError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# PyTorch gives up after ten minutes on GPUs, which the first process may need to check large data sets on a slow disk.
_LONGEST_WAIT = timedelta(hours=3)


def check_packages() -> None:
    """Raises SaliencyError where the packages of the extra `train` are missing."""
    for package in ("lightning_fabric", "tensorboard"):
        try:
            __import__(package)
        except ImportError as error:
            raise SaliencyError(f"training needs the package {package}: pip install 'pdb-ext[train]'") from error


def launch(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Fabric, with its processes running.

    accelerator: "auto", "cpu" or "cuda". devices: processes on this machine, one for each GPU; under torchrun its numbers
    are taken. precision: see TrainConfig; "auto" becomes "bf16-mixed" where the GPU computes in it, else "32-true".
    Raises SaliencyError for a device that is not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    cuda = accelerator != "cpu" and torch.cuda.is_available()
    if accelerator == "cuda" and not cuda:
        raise SaliencyError("device 'cuda' cannot be used: torch sees no GPU")
    nodes = 1
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    if cuda and devices > torch.cuda.device_count():
        raise SaliencyError(f"{devices} devices were asked for, and torch sees {torch.cuda.device_count()}")
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    strategy = DDPStrategy(timeout=_LONGEST_WAIT) if devices * nodes > 1 else "auto"
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu", devices=devices, num_nodes=nodes, precision=precision, strategy=strategy
    )
    fabric.launch()
    return fabric
