"""Group a stream of frames into the clips the network was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from .errors import InputError
from .frame import Frame
from .options import CLIP_LENGTH


@dataclass(frozen=True)
class Clip:
    """frames: `CLIP_LENGTH` of them. kept: how many, from the first, are new; the others fill the clip up."""

    frames: list[Frame]
    kept: int


def clips(frames: Iterable[Frame]) -> Iterator[Clip]:
    """Consecutive clips; holds at most two of them.

    The last one is filled by reflection without repeating the last frame, as the authors did: of 52 frames the last clip
    is 50, 51, 50, 49, 48. The authors saved by frame name, so the prediction of a reflected frame replaced the one made
    in its own place, with its true neighbours. Here the first prediction stays, and those of reflected frames are dropped.
    A video of one or two frames is reflected to and fro: 0, 1, 0, 1, 0 and 0, 0, 0, 0, 0.

    When `frames` raises InputError, the frames before it still come out as a last clip; then the error follows.
    """
    previous: list[Frame] = []
    current: list[Frame] = []
    failure = None
    try:
        for frame in frames:
            current.append(frame)
            if len(current) == CLIP_LENGTH:
                yield Clip(current, CLIP_LENGTH)
                previous, current = current, []
    except InputError as error:
        failure = error
    if current:
        filler = islice(_reflection(previous + current), CLIP_LENGTH - len(current))
        yield Clip([*current, *filler], len(current))
    if failure:
        raise failure


def _reflection(frames: list[Frame]) -> Iterator[Frame]:
    """What follows the last of `frames` when time runs back and forth between its ends."""
    last = len(frames) - 1
    position, step = last, -1
    while True:
        if last and not 0 <= position + step <= last:
            step = -step
        position += step if last else 0
        yield frames[position]
