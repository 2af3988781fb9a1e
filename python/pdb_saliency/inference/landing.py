"""Results on their way from a GPU, so that they can be waited for without what has been launched after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Landing:
    """A tensor on its way to the CPU. arrived: the event on the GPU's stream that says it is there; None from elsewhere.

    A plain `.cpu()` at the time of use would take its turn behind everything that another thread has launched meanwhile.
    """

    tensor: Tensor
    arrived: torch.cuda.Event | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Landing:
        """Begin the transfer, on the stream that makes the tensor."""
        if tensor.device.type != "cuda":
            return cls(tensor.cpu())
        landed = tensor.to("cpu", non_blocking=True)  # PyTorch puts it into pinned memory.
        return cls(landed, torch.cuda.current_stream(tensor.device).record_event())

    def wait(self) -> Tensor:
        """The tensor, on the CPU. Raises RuntimeError where the GPU has failed."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor
