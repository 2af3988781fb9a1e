"""Checkpoints that survive a kill, a full disk and damage, and the checks for continuing from them."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pdb_saliency.errors import InputError, OutputError, SaliencyError, one_line
from pdb_saliency.runtime.files import replacing

from .config import TrainConfig

KEPT = 2
_MAGIC = b"pdb-saliency checkpoint 1 "
_NAME = re.compile(r"step-(\d{9})\.ckpt")
_UNFINISHED = re.compile(
    r"\.(step-\d{9}\.ckpt|(model|best)\.safetensors|(config|metrics|cache)\.json|log\.jsonl)(\.\d+)?\.part"
)


class Checkpoints:
    """The checkpoints of one run, `folder`/step-000000200.ckpt and so on; the newest two are kept.

    A file begins with a line that holds the SHA-256 of the rest; the rest is what torch.save makes of the state, which
    consists of tensors and plain values.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps that have a file, in order. Raises OutputError."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be read ({error.strerror})") from error
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def save(self, step: int, state: dict) -> None:
        """Write the checkpoint of `step`, which is on the disk when this returns; then remove all but the newest two.

        Raises OutputError; the earlier checkpoints are then untouched.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self._path(step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n", content)
            for old in self.steps()[:-KEPT]:
                self._path(old).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); earlier checkpoints are kept"
            ) from error

    def load(self, remark: Callable[[str], None]) -> dict | None:
        """The newest state that can be read; None if there is no checkpoint.

        remark: called with one line for each newer checkpoint that is damaged. Raises SaliencyError if all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(self._path(step))
            except Exception as error:  # Unpickling a damaged file can raise nearly anything.
                remark(f"{self._path(step)}: damaged ({type(error).__name__}: {error}), so the one before is used")
        if steps:
            raise SaliencyError(f"{self.folder}: every checkpoint is damaged; remove the folder to start again")
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.ckpt"

    @staticmethod
    def _read(path: Path) -> dict:
        head, _, content = path.read_bytes().partition(b"\n")
        if head != _MAGIC + hashlib.sha256(content).hexdigest().encode():
            raise ValueError("its checksum is wrong")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        step = state.get("step") if isinstance(state, dict) else None
        if not isinstance(step, int) or step < 0:
            raise ValueError("it has no step")
        return state


# -- continuing --------------------------------------------------------------------------------------------------------


def check_run(run: Path, config: TrainConfig, state: dict | None) -> None:
    """Refuse to continue a run of another configuration, or to overwrite someone's model.

    state: of the last checkpoint in the folder `run`, None if there is none. Raises InputError.
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
    """The states of torch's random generators, for a checkpoint; `restore` sets them again."""
    return {
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(
    state: dict, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None, run: Path
) -> None:
    """Load the weights, and the states of the optimizer and the random generators.

    The generators of GPUs are set only if there are as many GPUs as when the checkpoint was written.
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


# -- files -------------------------------------------------------------------------------------------------------------


def write_durably(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that appears complete or not at all, and is on the disk when this returns. Raises OSError.

    A power cut cannot undo it, so older checkpoints may be removed afterwards. The hidden file has the same name in
    every process, so the next attempt replaces what a killed one left behind.
    """
    with replacing(path, path.with_name(f".{path.name[:50]}.part"), durable=True) as temporary:
        with open(temporary, "wb") as file:
            file.writelines(parts)


def remove_unfinished(folder: Path) -> None:
    """Delete the files that a killed run was still writing: .NAME.part, .NAME.PROCESS.part."""
    for path in folder.glob(".*.part"):
        if _UNFINISHED.fullmatch(path.name):  # The folder may hold someone else's files.
            path.unlink(missing_ok=True)
