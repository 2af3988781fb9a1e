"""The records of a run: progress bar, TensorBoard, log.jsonl."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pdb_saliency.errors import OutputError
from pdb_saliency.model.input import InputSpec
from pdb_saliency.runtime.progress import progress_bar

from .checkpoints import write_durably


class RunLog:
    """Scalars and pictures of one run, from step `start` on.

    log.jsonl has one object a line: {"step": ..., name: value, ...}. Lines of steps that will be repeated are removed
    first, so the log of a resumed run is the same as that of an uninterrupted one. Raises OutputError.
    """

    def __init__(self, folder: Path, start: int, steps: int):
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "log.jsonl"
        try:
            self._keep(start)
            self._file = open(self._path, "a")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        except OSError as error:
            raise OutputError(f"{error.filename or folder}: cannot be written ({error.strerror})") from error
        # In a file, a line a minute is enough.
        seldom = {} if sys.stderr.isatty() else {"mininterval": 60.0, "maxinterval": 60.0}
        self._bar = progress_bar(show=True, total=steps, initial=start, unit="step", smoothing=0.05, **seldom)
        self._since, self._samples, self._loss = time.monotonic(), 0, None

    def step(self, loss: float, samples: int) -> None:
        """Advance the bar, which shows a moving average of the loss. samples: of this step in all processes."""
        self._samples += samples
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        self._bar.set_postfix_str(f"loss {self._loss:.3f}, {self._rate():.1f} samples/s", refresh=False)
        self._bar.update()

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Log values as group/name. step: number of steps done. group: "train" or "val". Raises OutputError."""
        named = {f"{group}/{name}": float(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **named}) + "\n")
            self._file.flush()
            for name, value in named.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

    def speed(self, step: int) -> None:
        """Samples a second since the last call; in TensorBoard only, because a repeated run would differ."""
        self._board.add_scalar("speed/samples_per_second", self._rate(), step)
        self._since, self._samples = time.monotonic(), 0

    def picture(self, step: int, sheet: np.ndarray) -> None:
        """Log a picture in TensorBoard. sheet: uint8 (H, W, 3), RGB."""
        self._board.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def _rate(self) -> float:
        return self._samples / max(time.monotonic() - self._since, 1e-9)

    def _keep(self, start: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # A line cut short when the run was killed.
                continue
            step = entry.get("step") if isinstance(entry, dict) else None
            if start and isinstance(step, int) and step <= start:
                kept.append(line + "\n")
        write_durably(self._path, "".join(kept).encode())


def sample_sheet(clip: Tensor | None, masks: Tensor, saliency: Tensor, spec: InputSpec) -> np.ndarray:
    """Rows of frames, masks and predictions, time from left to right: uint8 (rows * H, T * W, 3), RGB.

    clip: (T, 3, H, W) as `spec` prepares it, or None if only features are known, which leaves the first row out. masks,
    saliency: (T, 1, H, W), 0 to 1.
    """
    rows = [_colours(clip, spec)] if clip is not None else []
    rows += [(255 * grey.float().expand(-1, 3, -1, -1)).cpu() for grey in (masks, saliency)]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return sheet.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _colours(clip: Tensor, spec: InputSpec) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    colours = clip.float().cpu() * std + mean
    return colours.flip(1) if spec.bgr else colours
