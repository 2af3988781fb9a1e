"""Checkpoints that survive a kill, a full disk and damage."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from pdb_saliency.errors import OutputError, SaliencyError

KEPT = 2
_MAGIC = b"pdb-saliency checkpoint 1 "
_NAME = re.compile(r"step-(\d{9})\.ckpt")
_UNFINISHED = re.compile(
    r"\.(step-\d{9}\.ckpt|(model|best)\.safetensors|(config|metrics|cache)\.json|log\.jsonl)(\.\d+)?\.part"
)


class Checkpoints:
    """The checkpoints of one run, `folder`/step-000000200.ckpt and so on; the last two are kept.

    A file is a line with the SHA-256 of the rest, which is what torch.save makes of the state: tensors and plain values.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps there are files for, in order."""
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
            replace_file(path, _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n", content)
            for old in self.steps()[:-KEPT]:
                self._path(old).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error.strerror or error}); earlier checkpoints are kept"
            ) from error

    def load(self, remark: Callable[[str], None]) -> dict | None:
        """The newest state that can be read, None where there is no checkpoint.

        remark: told, in one line each, which newer ones are damaged. Raises SaliencyError where all of them are.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(self._path(step))
            except Exception as error:  # Unpickling a damaged file can raise nearly anything.
                remark(f"{self._path(step)}: damaged ({type(error).__name__}: {error}), so the one before is taken")
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


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed run left of its files that it was writing: .NAME.part, .NAME.PROCESS.part."""
    for path in folder.glob(".*.part"):
        if _UNFINISHED.fullmatch(path.name):  # The folder may be anybody's.
            path.unlink(missing_ok=True)


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that appears complete or not at all, and is on the disk when this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name[:50]}.part")
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # The new name, too, must survive a power cut before the older checkpoint is removed.
    finally:
        os.close(folder)
