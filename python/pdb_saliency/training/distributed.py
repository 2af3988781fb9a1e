"""Several processes that train one model: how Lightning Fabric starts them, and how they cooperate."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from pdb_saliency.errors import SaliencyError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Result = TypeVar("Result")

# PyTorch gives up after ten minutes on GPUs; checking large data sets on a slow disk can keep the first process longer.
_LONGEST_WAIT = timedelta(hours=3)
_ACCELERATORS = ("auto", "cpu", "cuda")


def check_packages() -> None:
    """Raises SaliencyError if the packages of the extra `train` are missing."""
    for package in ("lightning_fabric", "tensorboard"):
        try:
            __import__(package)
        except ImportError as error:
            raise SaliencyError(f"training needs the package {package}: pip install 'pdb-ext[train]'") from error


def launch(accelerator: str = "auto", devices: int = 1, precision: str = "32-true") -> Fabric:
    """Fabric, with its processes running.

    accelerator: "auto", "cpu" or "cuda". devices: processes on this machine, one for each GPU; under torchrun, its own
    numbers are used instead. precision: see TrainConfig; "auto" becomes "bf16-mixed" on a GPU that supports it, else
    "32-true".
    Raises SaliencyError for a device that is not available.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    if accelerator not in _ACCELERATORS:
        raise SaliencyError(f"the device must be one of {', '.join(_ACCELERATORS)}, got {accelerator!r}")
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


def is_first() -> bool:
    """Whether this is the first of the processes that train together, which is the one that reports the result."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


# -- work whose failure in one process must not leave the others waiting --------------------------------------


def in_first(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """Run `work` in the first process, and return its result, which must be picklable, in all of them.

    If it raises a SaliencyError, the first process raises that, and the others end silently (SystemExit): the user
    reads the error once.
    """
    result, error = None, None
    if fabric.global_rank == 0:
        try:
            result = work()
        except SaliencyError as raised:
            error = raised
    if fabric.world_size > 1:
        failed, result = fabric.broadcast((error is not None, result))
        if failed and not error:
            raise SystemExit(1)
    if error:
        raise error
    return result


def in_each(fabric: Fabric, work: Callable[[], Result]) -> list[Result]:
    """Run `work` in every process, and return all results, in order of rank, in all of them. They must be picklable.

    If it raises a SaliencyError in any process, the first process raises that, and the others end (SystemExit).
    """
    result, error = None, None
    try:
        result = work()
    except SaliencyError as raised:
        error = raised
    outcomes = [(error, result)] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(outcomes, (error, result))
    error = next((raised for raised, _ in outcomes if raised), None)
    if error and fabric.global_rank:
        raise SystemExit(1)
    if error:
        raise error
    return [result for _, result in outcomes]


# -- batch normalisation with the statistics of the whole batch, not of each process's share ---------------------------


class _Sum(torch.autograd.Function):
    """The sum over all processes. All losses depend on each process's tensor, so its gradient is such a sum, too."""

    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.SyncBatchNorm for the CPU, where PyTorch has none. Every process must have a batch of the same size.

    In training mode the values and then their squared distances from the mean are summed over the processes, in at
    least float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm2d below `model` that is in training mode, so that all processes normalise alike.

    The names in state_dict stay the same. Call it when the model is on `device` and the process group exists.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.training:
                setattr(parent, name, _shared(child, device))


def _shared(layer: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    shared = SharedBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    # The same parameters, which the optimizer may have already.
    shared.weight, shared.bias = layer.weight, layer.bias
    shared.running_mean, shared.running_var = layer.running_mean, layer.running_var
    shared.num_batches_tracked = layer.num_batches_tracked
    return shared
