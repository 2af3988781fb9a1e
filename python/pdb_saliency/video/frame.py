"""What flows through the tool: frames, from anything that can be iterated into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One decoded frame. name: its results are called `<name>.png`. image: uint8 (H, W, 3), BGR.

    seconds: when it is shown, from the start of the video; None where nobody says. known: its map, uint8 (H, W), where an
    earlier run left it, so that it need not be computed once more.
    """

    name: str
    image: np.ndarray
    seconds: float | None = None
    known: np.ndarray | None = None


class Source(Protocol):
    """A video, in whatever form.

    count: how many frames to expect, None when unknown. fps: frames per second, None for pictures.
    files: the files read, so that results never overwrite them. remark: a line for the user, set while iterating.
    Iteration raises InputError at the frame that cannot be read, after every frame before it.
    """

    count: int | None
    fps: float | None
    files: Sequence[Path]
    remark: str | None

    def __iter__(self) -> Iterator[Frame]: ...
