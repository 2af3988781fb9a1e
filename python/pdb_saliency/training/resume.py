"""Going on with a run: whether it is the same one, and the state that its checkpoints hold of random numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.model.assemble import one_line

from .config import TrainConfig


def check_run(run: Path, config: TrainConfig, state: dict | None) -> None:
    """Refuse to go on with a run of another configuration, or to write over somebody's model.

    state: of the last checkpoint in the folder `run`, None where there is none. Raises InputError.
    """
    if state is None:
        if (run / "model.safetensors").exists():
            raise InputError(f"{run} holds a model.safetensors but no checkpoints: choose another folder")
        return
    stored = state.get("config")
    if not isinstance(stored, dict):
        raise InputError(f"{run}: the last checkpoint has no configuration; remove {run}")
    difference = config.difference(stored)
    if difference:
        raise InputError(
            f"{run} holds a run with another configuration: {difference}; "
            "give the same options to go on with it, or another folder"
        )
    if state["step"] > config.steps:
        raise InputError(f"{run} is already at step {state['step']}, past the {config.steps} asked for")


def random_state() -> dict:
    """Of torch's generators, for a checkpoint; `restore` is the inverse."""
    return {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(
    state: dict, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None, run: Path
) -> None:
    """Weights, the optimizer's and the random generators' state; of GPUs only where there are as many as there were.

    Raises SaliencyError for a state with other contents.
    """
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average:
            average.load_state_dict(state["average"])
        dict(state["best"]), float(state["loss"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise SaliencyError(
            f"{run}: the last checkpoint does not fit this program, or was changed ({one_line(error)}); "
            f"remove {run} to start again"
        ) from error
