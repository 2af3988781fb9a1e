"""Batch normalisation that is trained by several processes: statistics of the whole batch, not of each one's share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each one's loss depends on each one's tensor, so its gradient is such a sum, too."""

    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """nn.SyncBatchNorm for the CPU, where PyTorch has none. Every process must have a batch of the same size.

    In training mode the mean and then the squared distances from it are summed over the processes, in at least float32.
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

    The names in state_dict stay. Call it when the model is on `device` and its process group is there.
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
