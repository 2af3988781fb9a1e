"""Augmentation of training clips, the same for all frames of a clip: the paper's, and a modern one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .clip import TrainingClip

_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a clip, drawn once for all its frames, except for the place of the noise pattern in each frame.

    mirror: probability of a horizontal flip.
    rotations: numbers of quarter turns, one of which is drawn.
    slice: cropping: the largest part of the height or width that is cut off at each of the four borders.
    scale, ratio: random resized crop: ranges of its area and of its aspect ratio, each as a multiple of the frame's;
        (1, 1) for none. A crop that extends beyond the frame shows the reflection of frame and mask there.
    keep: a crop must keep at least this part of the foreground of all masks together, and a pixel of each mask that has
        any. Otherwise another one is drawn, up to ten in all; if none will do, the clip is not cropped.
    brightness, contrast, saturation: largest deviation of each factor from 1. hue: largest rotation, in degrees.
    blur, jpeg, noise: probabilities of a Gaussian blur, of JPEG artefacts and of Gaussian noise.
    blur_sigma: range in pixels of the network's input. jpeg_quality: range, within 0-100. noise_sigma: range in grey
        levels, 0-255.
    """

    mirror: float = 0.5
    rotations: tuple[int, ...] = (0,)
    slice: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    keep: float = 0.7
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (30, 90)
    noise: float = 0.0
    noise_sigma: tuple[float, float] = (2.0, 10.0)

    def __call__(self, clip: TrainingClip, rng: np.random.Generator) -> TrainingClip:
        """The clip after `move` and `recolour`; the arrays of the given clip are not changed."""
        return self.recolour(self.move(clip, rng), rng)

    def move(self, clip: TrainingClip, rng: np.random.Generator) -> TrainingClip:
        """Crops, mirrors and turns frames and masks. No pixel is interpolated; the size may change."""
        top, bottom, left, right = self._crop(clip, rng)
        mirror = rng.random() < self.mirror
        turns = int(rng.choice(self.rotations)) % 4

        def moved(picture: np.ndarray) -> np.ndarray:
            picture = _cut(picture, top, bottom, left, right)
            picture = cv2.flip(picture, 1) if mirror else picture
            return cv2.rotate(picture, _TURNS[turns]) if turns else picture

        return TrainingClip(clip.name, each(clip.frames, moved), each(clip.masks, moved))

    def recolour(self, clip: TrainingClip, rng: np.random.Generator) -> TrainingClip:
        """Changes colours, and adds blur, JPEG artefacts and noise, in this order. The masks stay the same."""
        colours = self._colours(rng)
        sigma = rng.uniform(*self.blur_sigma) if rng.random() < self.blur else 0.0
        quality = (
            int(rng.integers(self.jpeg_quality[0], self.jpeg_quality[1] + 1)) if rng.random() < self.jpeg else None
        )
        strength = rng.uniform(*self.noise_sigma) if rng.random() < self.noise else 0.0

        def recoloured(frame: np.ndarray) -> np.ndarray:
            frame = frame if colours is None else cv2.transform(frame, colours)
            frame = cv2.GaussianBlur(frame, (0, 0), sigma) if sigma else frame
            return frame if quality is None else _through_jpeg(frame, quality)

        frames = each(clip.frames, recoloured)
        if strength:
            pattern = rng.normal(0, strength, frames[0].shape).astype(np.int16)
            frames = [_noisy(frame, pattern, rng) for frame in frames]
        return TrainingClip(clip.name, frames, clip.masks)

    def _crop(self, clip: TrainingClip, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the part that is kept; they may lie outside the frame."""
        height, width = clip.frames[0].shape[:2]
        whole = (0, height, 0, width)
        masks = list({id(mask): mask for mask in clip.masks if mask is not None}.values())
        areas = [cv2.countNonZero(mask) for mask in masks]
        for _ in range(_TRIES):
            box = self._slices(height, width, rng) if self.slice else self._resized_crop(height, width, rng)
            if box == whole:
                break
            top, bottom, left, right = box
            kept = [cv2.countNonZero(mask[max(top, 0) : bottom, max(left, 0) : right]) for mask in masks]
            if sum(kept) >= self.keep * sum(areas) and all(part or not area for part, area in zip(kept, areas)):
                return box
        return whole

    def _slices(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        top, bottom, left, right = rng.uniform(0, self.slice, 4)
        return int(top * height), height - int(bottom * height), int(left * width), width - int(right * width)

    def _resized_crop(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        area, ratio = (math.exp(rng.uniform(*np.log(limits))) for limits in (self.scale, self.ratio))
        crop_height = max(round(height * math.sqrt(area / ratio)), 1)
        crop_width = max(round(width * math.sqrt(area * ratio)), 1)
        top, left = (
            int(rng.integers(min(size - crop, 0), max(size - crop, 0) + 1))
            for size, crop in ((height, crop_height), (width, crop_width))
        )
        return top, top + crop_height, left, left + crop_width

    def _colours(self, rng: np.random.Generator) -> np.ndarray | None:
        """The changes of brightness, contrast, saturation and hue as one affine map of (blue, green, red).

        float32 (3, 4); None for no change.
        """
        limits = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = 1 + rng.uniform(-limits, limits)
        angle = math.radians(rng.uniform(-self.hue, self.hue))
        if not limits.any() and not self.hue:
            return None
        # Saturation scales, and hue rotates, the component of a colour perpendicular to the grey axis (1, 1, 1).
        grey = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        colour = grey + saturation * (math.cos(angle) * (np.eye(3) - grey) + math.sin(angle) * cross)
        offset = np.full((3, 1), 128 * (1 - contrast))
        return np.hstack([brightness * contrast * colour, offset]).astype(np.float32)


def each(pictures: Sequence[np.ndarray | None], change: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray | None]:
    """Changes each picture, but each array only once: pictures that share an array still do. None stays None."""
    done: dict[int, np.ndarray | None] = {id(None): None}
    for picture in pictures:
        if id(picture) not in done:
            done[id(picture)] = change(picture)
    return [done[id(picture)] for picture in pictures]


def _cut(picture: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """picture[top:bottom, left:right], with the picture's reflection where that lies outside it."""
    height, width = picture.shape[:2]
    inside = picture[max(top, 0) : bottom, max(left, 0) : right]
    margins = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    return cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REFLECT_101) if any(margins) else inside


_TURNS = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}


def _through_jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _noisy(frame: np.ndarray, pattern: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the pattern, shifted at random: one pattern serves all frames, which is cheaper than new noise for each."""
    shift = tuple(int(rng.integers(size)) for size in pattern.shape[:2])
    noise = np.roll(pattern, shift, (0, 1))
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


# "Mirror reflection, rotation (0, 90, 180 and 270 degrees) and image cropping" (paper, "Data Augmentation"), which
# "crops out the most top, bottom, left, and right slices of the border". It gives no width; a tenth is our choice.
PAPER = Augmentation(rotations=(0, 1, 2, 3), slice=0.1)
# Some crops are larger than the frame, because objects fill a fifth of a picture in the still sets and a twentieth of a
# video frame.
MODERN = Augmentation(
    scale=(0.35, 2.5), ratio=(3 / 4, 4 / 3), brightness=0.25, contrast=0.25, saturation=0.3, hue=10.0,
    blur=0.2, jpeg=0.2, noise=0.2,
)  # fmt: skip
