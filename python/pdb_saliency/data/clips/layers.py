"""Layers of a composite: pictures with alpha, one in front of another, on a scene that a camera sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .camera import Camera, transform
from .paths import motion_blur


@dataclass(frozen=True)
class Wobble:
    """A slight smooth deformation: waves of displacement that travel across the layer with time.

    amplitude: float64 (2,), in x and y, in pixels of the layer. phase: float64 (2,), in radians.
    waves: float64 (2, 2), the number of waves across the layer, [displaced axis, along axis].
    frequency: in radians a frame.
    """

    amplitude: np.ndarray
    waves: np.ndarray
    frequency: float
    phase: np.ndarray

    def shift(self, x: np.ndarray, y: np.ndarray, size: tuple[int, int], time: float) -> tuple[np.ndarray, np.ndarray]:
        """The displacements in x and y from points of the deformed layer to the points of the layer seen there.

        x, y: float32 (h, w), the points, in pixels of the layer. size: (height, width) of the layer. time: in frames.
        Returns two arrays, float32 (h, w), in pixels of the layer.
        """
        shifts = []
        for axis in range(2):
            across, down = self.waves[axis] * 2 * np.pi / np.array(size[::-1])
            angle = (across * x + down * y + (self.frequency * time + self.phase[axis])).astype(np.float32)
            shifts.append(np.float32(self.amplitude[axis]) * np.sin(angle))
        return shifts[0], shifts[1]


@dataclass(frozen=True)
class Shadow:
    """A cast shadow, relative to the height of its object.

    strength: share of the light that is blocked. squash: height of the shadow; negative if it falls towards the viewer.
    lean: how far its top leans sideways. softness: extent of the blur.
    """

    strength: float
    squash: float
    lean: float
    softness: float


@dataclass(frozen=True)
class Layer:
    """rgba: uint8 (h, w, 4), BGRA, premultiplied with alpha, transparent along its border.

    pose: time in frames -> homography from layer pixels to scene pixels, float64 (3, 3).
    labelled: whether it belongs to the mask.
    """

    rgba: np.ndarray
    pose: Callable[[float], np.ndarray]
    labelled: bool
    wobble: Wobble | None = None
    shadow: Shadow | None = None


def paint(layer: Layer, camera: Camera, time: int, shutter: float, frame: np.ndarray, visible: np.ndarray) -> None:
    """Paints the layer over a frame, in place.

    frame: uint8 (H, W, 3). time, shutter: in frames.
    visible: uint8 (H, W), the part of each pixel's light that comes from labelled things, 0 to 255; updated in place.
    """
    to_frame = camera.project(time) @ layer.pose(time)
    if to_frame[2, 2] <= 0:
        return  # Perspective puts it behind the camera.
    to_frame /= to_frame[2, 2]
    if layer.shadow:
        _darken(frame, layer, to_frame)
    shift = _shift(layer, camera, time, shutter)
    box = _box(to_frame, layer, frame.shape[:2], margin=int(np.abs(shift).max() / 2) + 2)
    if box is None:
        return
    seen = motion_blur(_warp(layer, to_frame, box, time), shift)
    alpha = seen[:, :, 3]
    rest = 255 - alpha
    frame[box] = cv2.add(cv2.multiply(frame[box], cv2.merge([rest, rest, rest]), scale=1 / 255), seen[:, :, :3])
    hidden = cv2.multiply(visible[box], rest, scale=1 / 255)
    visible[box] = cv2.add(hidden, alpha) if layer.labelled else hidden


def _shift(layer: Layer, camera: Camera, time: int, shutter: float) -> np.ndarray:
    """float64 (2,): how far the layer's centre moves through the frame while the shutter is open, in pixels."""
    centre = (np.array(layer.rgba.shape[1::-1]) - 1) / 2
    ends = [time - shutter / 2, time + shutter / 2]
    before, after = (transform(camera.project(end) @ layer.pose(end), centre) for end in ends)
    return after - before


def _box(to_frame: np.ndarray, layer: Layer, size: tuple[int, int], margin: int) -> tuple[slice, slice] | None:
    """The part of the frame that contains the layer; None if it is out of sight."""
    height, width = layer.rgba.shape[:2]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    depth = corners @ to_frame[2, :2] + to_frame[2, 2]
    if depth.min() < 0.1:
        return None  # Perspective puts a corner beside or behind the camera.
    if layer.wobble:
        margin += int(np.ceil(np.abs(layer.wobble.amplitude).max() * np.linalg.norm(to_frame[:2, :2], 2)))
    points = transform(to_frame, corners)
    low = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin + 1, size[::-1])
    if (high <= low).any():
        return None
    return np.s_[low[1] : high[1], low[0] : high[0]]


def _warp(layer: Layer, to_frame: np.ndarray, box: tuple[slice, slice], time: float) -> np.ndarray:
    """uint8 (h, w, 4): the layer as it appears in this box of the frame."""
    rows, columns = box
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if not layer.wobble:
        local = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]]) @ to_frame
        return cv2.warpPerspective(layer.rgba, local, size, flags=cv2.INTER_LINEAR)
    u, v = _back_projection(to_frame, *(np.arange(part.start, part.stop) for part in (columns, rows)))
    # The waves are smooth, so they are computed once for each square of about eight by eight pixels and scaled up.
    middles = [(np.arange(n) + 0.5) * side / n - 0.5 for side, n in ((side, max(side // 8, 2)) for side in size)]
    coarse = _back_projection(to_frame, columns.start + middles[0], rows.start + middles[1])
    shifts = layer.wobble.shift(*coarse, layer.rgba.shape[:2], time)
    shift_u, shift_v = (cv2.resize(shift, size, interpolation=cv2.INTER_LINEAR) for shift in shifts)
    return cv2.remap(layer.rgba, u + shift_u, v + shift_v, cv2.INTER_LINEAR)


def _back_projection(to_frame: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layer coordinates u, v, float32 (h, w), of the frame's columns x (w,) and rows y (h,)."""
    back = np.linalg.inv(to_frame).astype(np.float32)
    u, v, depth = (row[0] * x.astype(np.float32) + (row[1] * y.astype(np.float32) + row[2])[:, None] for row in back)
    return u / depth, v / depth


def _darken(frame: np.ndarray, layer: Layer, to_frame: np.ndarray) -> None:
    shadow, height = layer.shadow, layer.rgba.shape[0]
    soft = shadow.softness * height * np.linalg.norm(to_frame[:2, :2], 2)
    # A shear about the layer's lowest row: (x, y) -> (x - lean (y - foot), foot + squash (y - foot)).
    foot = height - 1
    fall = np.array([[1, -shadow.lean, shadow.lean * foot], [0, shadow.squash, foot - shadow.squash * foot], [0, 0, 1]])
    box = _box(to_frame @ fall, layer, frame.shape[:2], margin=int(2 * soft) + 1)
    if box is None:
        return
    rows, columns = box
    local = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]]) @ to_frame @ fall
    size = (columns.stop - columns.start, rows.stop - rows.start)
    alpha = cv2.warpPerspective(np.ascontiguousarray(layer.rgba[:, :, 3]), local, size, flags=cv2.INTER_LINEAR)
    alpha = cv2.stackBlur(alpha, (2 * int(soft) + 1, 2 * int(soft) + 1))
    light = cv2.LUT(alpha, np.rint(255 - shadow.strength * np.arange(256)).astype(np.uint8))
    frame[box] = cv2.multiply(frame[box], cv2.merge([light, light, light]), scale=1 / 255)
