"""Frames, and sources of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One decoded frame. name: the name of its results, without their suffix. image: uint8 (H, W, 3), BGR.

    seconds: when it is shown, counted from the start of the video; None if unknown. known: its map, uint8 (H, W), if an
    earlier run left it, so that it need not be computed again.
    """

    name: str
    image: np.ndarray
    seconds: float | None = None
    known: np.ndarray | None = None


class Source(Protocol):
    """A video in any form.

    count: how many frames to expect, None if unknown. fps: frames per second, None for pictures.
    files: the files read; results must not overwrite them. remark: a line for the user, set while iterating.
    Iteration raises InputError at a frame that cannot be read, after all frames before it.
    """

    count: int | None
    fps: float | None
    files: Sequence[Path]
    remark: str | None

    def __iter__(self) -> Iterator[Frame]: ...
