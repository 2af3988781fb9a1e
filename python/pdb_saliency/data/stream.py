"""Training samples: clips from several sources, mixed, augmented and prepared for the network."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from pdb_saliency.model.input import InputSpec

from .augment import Augmentation, each
from .clip import ClipSource, TrainingClip


class SampleStream(Dataset):
    """A map-style data set of `count` samples. The source of each is drawn with probability proportional to its weight.

    A sample is a function of (seed, number) alone: the same in every process, worker and order. Each is a dict:
        clip: float32 (T, 3, height, width), as `spec` prepares frames.
        mask: float32 (T, 1, height, width), 0 or 1, resized by nearest neighbour; 0 in frames that are not annotated.
        valid: bool (T,), whether each frame is annotated.
        name: where the clip comes from.

    sources, weights: a weight of at least 0 for each source, and not all 0. length: T. augmentation: None for none.
    Raises ValueError for other weights. samples[number] raises IndexError for a number outside 0 to count - 1, and
    InputError, which names the file, if one has become unreadable.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        weights: Sequence[float],
        spec: InputSpec,
        *,
        length: int,
        seed: int,
        count: int,
        augmentation: Augmentation | None,
    ):
        total = np.cumsum(np.asarray(weights, float))
        if len(weights) != len(sources) or not len(sources) or min(weights) < 0 or not 0 < total[-1] < np.inf:
            raise ValueError(f"expected {len(sources)} weights >= 0 with a positive sum, got {list(weights)}")
        self.sources = sources
        self.spec = spec
        self.length = length
        self.seed = seed
        self.count = count
        self.augmentation = augmentation
        self._shares = total / total[-1]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict:
        if not 0 <= number < self.count:
            raise IndexError(f"sample {number} of {self.count}")
        rng = np.random.default_rng([self.seed, number])
        source = self.sources[np.searchsorted(self._shares, rng.random(), side="right")]
        clip = source.clip(rng, self.length)
        if self.augmentation:
            clip = self.augmentation.move(clip, rng)
        clip = resize(clip, self.spec.height, self.spec.width)
        if self.augmentation:
            # At the network's size, because that is cheaper and does not average noise away.
            clip = self.augmentation.recolour(clip, rng)
        return self._sample(clip)

    def _sample(self, clip: TrainingClip) -> dict:
        distinct = {id(frame): frame for frame in clip.frames}
        places = {key: place for place, key in enumerate(distinct)}
        frames = self.spec.prepare(list(distinct.values()))
        if len(distinct) < len(clip.frames):
            frames = frames[[places[id(frame)] for frame in clip.frames]]
        empty = np.zeros(frames.shape[-2:], np.uint8)
        masks = np.stack([empty if mask is None else mask for mask in clip.masks])[:, None]
        return {
            "clip": frames,
            "mask": torch.from_numpy((masks > 0).astype(np.float32)),
            "valid": torch.tensor([mask is not None for mask in clip.masks]),
            "name": clip.name,
        }


def resize(clip: TrainingClip, height: int, width: int) -> TrainingClip:
    """Frames resized bilinearly, as `InputSpec.prepare` does; masks by nearest neighbour on the same pixel centres."""
    size = (width, height)
    # INTER_NEAREST would be off by half a source pixel.
    masks = each(clip.masks, lambda mask: cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT))
    frames = each(clip.frames, lambda frame: cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR))
    return TrainingClip(clip.name, frames, masks)
