"""A run's state, the same in all its processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..errors import SaliencyError
from .checkpoints import Checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def load_for_all(fabric: Fabric, checkpoints: Checkpoints, remark: Callable[[str], None]) -> dict | None:
    """The last checkpoint, None where there is none. The first process reads it for all: on other machines, or after damage,
    the folder may look different, and processes at different steps would wait for each other forever.

    Raises what `Checkpoints.load` does; the other processes then end with SystemExit.
    """
    state, error = None, None
    if fabric.global_rank == 0:
        try:
            state = checkpoints.load(remark)
        except SaliencyError as raised:
            error = raised
    if fabric.world_size > 1:
        failed, state = fabric.broadcast((error is not None, state))
        if failed and fabric.global_rank:
            raise SystemExit(1)
    if error:
        raise error
    return state


def random_state() -> dict:
    """Of torch's generators, for a checkpoint."""
    return {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random(state: dict) -> None:
    """The inverse; generators of GPUs only where there are as many as there were."""
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and len(state["random_cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random_cuda"])
