"""The paper's training clips: copies of a still, and frames of a video at several sampling steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.sets.items import Still, Video
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.errors import InputError


class StillCopies:
    """A ClipSource: one still, `length` times. All frames of a clip are the same array, and so are its masks."""

    def __init__(self, stills: Sequence[Still]):
        if not stills:
            raise InputError("clips of stills need at least one still, got none")
        self.stills = stills

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """See ClipSource. All stills are equally likely."""
        still = self.stills[rng.integers(len(self.stills))]
        frame = read_frame(still.image)
        mask = read_mask([still.mask], frame.shape[:2])
        return TrainingClip(still.name, [frame] * length, [mask] * length)


class VideoClips:
    """A ClipSource: frames of a video, a random sampling step apart (the paper's "Data Augmentation"; 1 to 6 frames).

    A clip is drawn around an annotated frame, so that at least one frame has a mask: first the frame, uniformly among
    the annotated ones of all videos; then a step, uniformly; then the frame's place in the clip, uniformly among those
    that keep the clip inside the video. If there is no such place, the step is reduced until there is one. A video with
    fewer frames than a clip is played forwards and backwards in turn.
    """

    def __init__(self, videos: Sequence[Video], steps: Sequence[int] = (1, 2, 3, 4, 5, 6)):
        self.videos = videos
        self.steps = steps
        self._annotated = [[index for index, paths in enumerate(video.masks) if paths] for video in videos]
        self._ends = list(accumulate(map(len, self._annotated)))
        if not self._ends or not self._ends[-1]:
            raise InputError(f"clips of videos need at least one annotated frame, got none in {len(videos)} videos")

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """See ClipSource."""
        number = int(rng.integers(self._ends[-1]))
        which = bisect_right(self._ends, number)
        video = self.videos[which]
        annotated = self._annotated[which][number - self._ends[which]]
        step = int(rng.choice(self.steps))
        return _read(video, _indices(rng, annotated, len(video.frames), length, step))


def _indices(rng: np.random.Generator, annotated: int, count: int, length: int, step: int) -> list[int]:
    """The indices of a clip's frames, one of them `annotated`, in a video of `count` frames."""
    if count < length:
        turn = [*range(count), *range(count - 2, 0, -1)]  # Forwards and backwards, without repeating the ends.
        return [turn[t % len(turn)] for t in range(length)]
    while True:
        # The clip starts `place` steps before the annotated frame; step 1 always has a place.
        first = max(0, -((count - 1 - annotated) // step) + length - 1)
        last = min(length - 1, annotated // step)
        if first <= last:
            start = annotated - step * int(rng.integers(first, last + 1))
            return [start + step * t for t in range(length)]
        step -= 1


def _read(video: Video, indices: list[int]) -> TrainingClip:
    frames = {index: read_frame(video.frames[index]) for index in dict.fromkeys(indices)}
    size = frames[indices[0]].shape
    for index, frame in frames.items():
        if frame.shape != size:
            expected, found = (f"{width}x{height}" for height, width, _ in (size, frame.shape))
            raise InputError(
                f"{video.frames[index]}: a frame of {expected} pixels is expected, like the others, got {found}"
            )
    masks = {index: read_mask(video.masks[index], size[:2]) if video.masks[index] else None for index in frames}
    name = f"{video.name} {', '.join(video.frames[index].stem for index in indices)}"
    return TrainingClip(name, [frames[index] for index in indices], [masks[index] for index in indices])
