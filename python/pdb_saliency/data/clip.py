"""The clips that training is made of, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class TrainingClip:
    """Consecutive frames of one size with their masks.

    name: tells a person where it came from. frames: uint8 (H, W, 3), BGR. masks: uint8 (H, W), 0 or 255; None for a frame
    that is not annotated.
    """

    name: str
    frames: list[np.ndarray]
    masks: list[np.ndarray | None]


class ClipSource(Protocol):
    """Makes clips without end."""

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """A random clip of `length` frames: a function of `rng` alone, so that a seed makes training repeatable.

        Raises InputError when a file that was there has become unreadable.
        """
        ...
