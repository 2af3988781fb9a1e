"""The clips that a network is trained on, and the interface of their sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class TrainingClip:
    """Consecutive frames of one size with their masks.

    name: for people, where the clip comes from. frames: uint8 (H, W, 3), BGR.
    masks: uint8 (H, W), 0 or 255; None for a frame that is not annotated.
    """

    name: str
    frames: list[np.ndarray]
    masks: list[np.ndarray | None]


class ClipSource(Protocol):
    """Makes any number of random clips."""

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """A random clip of `length` frames, a function of `rng` alone, so that a seed makes training repeatable.

        Raises InputError if a file has become unreadable.
        """
        ...
