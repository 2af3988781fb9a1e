"""Group a stream of frames into the clips the network sees, and join the maps of clips that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from pdb_saliency.errors import InputError
from pdb_saliency.options import CLIP_LENGTH

T = TypeVar("T")
Label = TypeVar("Label")


@dataclass(frozen=True)
class Clip(Generic[T]):
    """frames: all frames of the clip. kept: how many of them, from the first, are real; the others fill it up."""

    frames: list[T]
    kept: int


def clips(frames: Iterable[T], length: int = CLIP_LENGTH, overlap: int = 0) -> Iterator[Clip[T]]:
    """Consecutive clips of `length` frames, each sharing `overlap` with the one before; holds at most two of them.

    The last one is filled by reflection without repeating the last frame, as the authors did: of 52 frames the last
    clip is 50, 51, 50, 49, 48. The authors saved by frame name, so the prediction of a reflected frame replaced the one
    made in its own place, with its true neighbours. Here the first prediction stays, and those of reflected frames are
    dropped. A video of one or two frames is reflected back and forth: 0, 1, 0, 1, 0 and 0, 0, 0, 0, 0.

    When `frames` raises InputError, the frames before it still come out as a last clip; then the error follows.
    """
    previous: list[T] = []
    current: list[T] = []
    new, failure = 0, None
    try:
        for frame in frames:
            current.append(frame)
            new += 1
            if len(current) == length:
                yield Clip(current, length)
                previous, current, new = current, current[length - overlap :], 0
    except InputError as error:
        failure = error
    if new:
        past = previous[: length - overlap] + current
        filler = islice(_reflection(past), length - len(current))
        yield Clip([*current, *filler], len(current))
    if failure:
        raise failure


def _reflection(frames: list[T]) -> Iterator[T]:
    """The frames after the last one when time runs back and forth between the ends."""
    last = len(frames) - 1
    position, step = last, -1
    while True:
        if last and not 0 <= position + step <= last:
            step = -step
        position += step if last else 0
        yield frames[position]


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter. The items before an InputError still come first."""
    group: list[T] = []
    failure = None
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except InputError as error:
        failure = error
    if group:
        yield group
    if failure:
        raise failure


def blend_weights(length: int) -> np.ndarray:
    """float32 (length,): 1, 2, 3, ..., 3, 2, 1. A frame with more neighbours on both sides counts more."""
    positions = np.arange(length)
    return (np.minimum(positions, length - 1 - positions) + 1).astype(np.float32)


def blended(
    items: Iterable[tuple[Label, T]], maps: Callable[[Clip[T]], Iterable], length: int = CLIP_LENGTH, overlap: int = 0
) -> Iterator[tuple[Label, object]]:
    """Each label with its map, as soon as no later clip can change it.

    items: labels, each with what goes into the clips. maps: gives an array or tensor (h, w) for each frame of a clip.
    A frame that lies in several clips gets their mean weighted by `blend_weights`; without overlap, its only map.
    """
    labels: deque[Label] = deque()
    sums: deque[list] = deque()  # For frames not yet given out: weighted sum of maps, sum of weights.
    weights = blend_weights(length)

    def labelled() -> Iterator[T]:
        for label, item in items:
            labels.append(label)
            yield item

    def give(count: int) -> Iterator[tuple[Label, object]]:
        for _ in range(count):
            total, weight = sums.popleft()
            yield labels.popleft(), total / weight if overlap else total

    stream = clips(labelled(), length, overlap)
    while True:
        try:
            clip = next(stream, None)
        except InputError:
            yield from give(len(sums))
            raise
        if clip is None:
            break
        for index, small in zip(range(clip.kept), maps(clip)):
            weight = float(weights[index])
            weighted = small * weight if overlap else small
            if index < len(sums):
                sums[index] = [sums[index][0] + weighted, sums[index][1] + weight]
            else:
                sums.append([weighted, weight])
        yield from give(min(len(sums), length - overlap))
    yield from give(len(sums))
