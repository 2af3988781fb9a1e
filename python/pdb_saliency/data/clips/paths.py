"""Smooth random motion, and the blur that it causes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_LONGEST_KERNEL = 11  # Taps; from 12 on, OpenCV filters by Fourier transform, which is ten times slower here.


@dataclass(frozen=True)
class SmoothPath:
    """p(t) = linear t + quadratic t^2 + amplitude (sin(frequency t + phase) - sin(phase)), p(0) = 0; t in frames.

    linear, quadratic, amplitude: float64 (d,), in the path's own unit. phase: float64 (d,), in radians.
    frequency: in radians a frame.
    The terms are motion at constant velocity, at constant acceleration, and an oscillation or (d = 2) an ellipse.
    """

    linear: np.ndarray
    quadratic: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    frequency: float

    def __call__(self, time: float) -> np.ndarray:
        """The position at a time, float64 (d,)."""
        swing = np.sin(self.frequency * time + self.phase) - np.sin(self.phase)
        return self.linear * time + self.quadratic * time**2 + self.amplitude * swing

    def scaled(self, factor: float) -> SmoothPath:
        """The path with all its positions multiplied by `factor`."""
        return SmoothPath(
            self.linear * factor, self.quadratic * factor, self.amplitude * factor, self.phase, self.frequency
        )


def random_path(rng: np.random.Generator, length: int, speed: float, dimensions: int = 2) -> SmoothPath:
    """A random path that moves by `speed` a frame on average.

    The mean of |p(t+1) - p(t)| over frames 0 ... length - 1 is exactly `speed`. For a clip of one frame, in which
    nothing moves, it is only the order of magnitude.
    """
    direction = rng.standard_normal(dimensions)
    direction /= np.linalg.norm(direction)
    # A tenth, three tenths or all of the motion swings, with a period of 8 to 40 frames: a third of a second to two.
    swinging = rng.choice([0.1, 0.3, 1.0])
    frequency = 2 * math.pi / rng.uniform(8, 40)
    acceleration = rng.uniform(-0.5, 0.5) / max(length - 1, 1)
    path = SmoothPath(
        linear=(1 - swinging) * direction,
        quadratic=(1 - swinging) * acceleration * direction,
        amplitude=swinging / frequency * rng.uniform(0.5, 1, dimensions),
        phase=rng.uniform(0, 2 * math.pi, dimensions),
        frequency=frequency,
    )
    positions = np.array([path(t) for t in range(length)])
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    pace = steps.mean() if length > 1 else 1.0
    return path.scaled(speed / max(pace, 1e-6))


def motion_blur(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The picture as it is exposed while the scene moves by `shift` = (x, y) pixels.

    image: uint8 (H, W, C); a cut-out must be premultiplied with its alpha. The blur is along a straight line and
    centred: exact for translation at constant velocity, an approximation for rotation and zoom. It is never longer than
    20 pixels.
    """
    length = math.hypot(*shift)
    if length < 0.7:
        return image
    passes = 1 if length <= _LONGEST_KERNEL - 1 else 2
    # Two equal box filters, one after the other, blur as much (by variance) as one that is longer by sqrt(2).
    span = min(length / math.sqrt(passes), _LONGEST_KERNEL - 1) * np.asarray(shift) / length
    kernel = _line_kernel(span)
    for _ in range(passes):
        image = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return image


def _line_kernel(span: np.ndarray) -> np.ndarray:
    """float32, odd sides, sum 1: a line along the vector `span` through the centre, spread bilinearly over pixels."""
    half = np.ceil(np.abs(span) / 2).astype(int)
    samples = np.linspace(-0.5, 0.5, 2 * _LONGEST_KERNEL + 1)[:, None]
    across, down = (np.maximum(1 - np.abs(samples * span[i] - np.arange(-half[i], half[i] + 1)), 0) for i in (0, 1))
    kernel = down.T @ across
    return (kernel / kernel.sum()).astype(np.float32)
