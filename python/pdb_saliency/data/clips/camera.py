"""A still seen by a moving camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.sets.items import Still
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.errors import InputError

from .paths import motion_blur, random_path
from .settings import CameraSettings


class Camera:
    """A moving camera over a picture: where each frame of a clip lies on it.

    view(t): the homography from frame to picture, float64 (3, 3), for pixel centres (x, y, 1), up to scale. t: in
        frames, may be fractional. project(t): its inverse.
    frame: (height, width) of the frames. All pixel centres of frames 0 ... length - 1 lie on the picture.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        length: int,
        picture: tuple[int, int],
        settings: CameraSettings,
        *,
        travels: bool | None = None,
        focus: np.ndarray | None = None,
    ):
        """picture: (height, width). travels: whether the camera moves; None: at random, see CameraSettings.rest.

        focus: float64 (n, 2), points (x, y) of the picture; of four random places for the view, the one that shows most
            of them is taken. None: one random place.
        """
        self.frame = frame_size(picture, settings.side)
        self._extent = np.maximum(np.array(picture[::-1], float) - 1, 1e-9)
        self._draw_motion(rng, length, settings, rng.random() >= settings.rest if travels is None else travels)
        self._pace = 1.0
        low, high = self._reach(length)
        while (largest := np.min(self._extent / (high - low))) < settings.view[0] and self._pace > 0:
            self._pace = self._pace * 0.8 if self._pace > 0.01 else 0.0
            low, high = self._reach(length)
        self._scale = rng.uniform(min(settings.view[0], largest), min(settings.view[1], largest))
        room = np.maximum(self._extent - self._scale * (high - low), 0)
        places = rng.random((4, 2)) * room - self._scale * low
        self._put(places[0] if focus is None else max(places, key=lambda place: self._shown(place, focus, length)))

    def view(self, time: float) -> np.ndarray:
        if time not in self._views:
            self._views[time] = self._view(time)
        return self._views[time]

    def project(self, time: float) -> np.ndarray:
        if time not in self._projections:
            self._projections[time] = np.linalg.inv(self.view(time))
        return self._projections[time]

    def centre(self, time: float) -> np.ndarray:
        """float64 (2,): the point (x, y) of the picture in the middle of the frame."""
        return transform(self.view(time), (np.array(self.frame[::-1]) - 1) / 2)

    def pixel(self, time: float) -> float:
        """The width of a pixel in the middle of the frame, in pixels of the picture."""
        middle = (np.array(self.frame[::-1]) - 1) / 2
        ends = transform(self.view(time), np.stack([middle - [0.5, 0], middle + [0.5, 0]]))
        return float(np.linalg.norm(ends[1] - ends[0]))

    def speed(self, length: int) -> float:
        """How far the picture moves between frames, on average and in mid-frame, in pixels of the frame."""
        centres = np.array([self.centre(time) for time in range(length)])
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / self.pixel(length // 2)
        return float(steps.mean()) if length > 1 else 0.0

    def shoot(self, image: np.ndarray, time: float, shutter: float) -> np.ndarray:
        """The frame at `time` of a picture, uint8 (H, W, 3), with motion blur. shutter: exposure time, in frames."""
        point = self.centre(time)
        before, after = (transform(self.project(time + half), point) for half in (-shutter / 2, shutter / 2))
        return motion_blur(self.warp(image, time), after - before)

    def warp(self, image: np.ndarray, time: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """The frame at `time` of a picture of the camera's picture size, with any number of channels."""
        # Replication only matters for rounding errors: no pixel centre lies outside.
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpPerspective(
            image, self.view(time), self.frame[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
        )

    def _put(self, centre: np.ndarray) -> None:
        self._centre = centre
        self._views: dict[float, np.ndarray] = {}
        self._projections: dict[float, np.ndarray] = {}

    def _view(self, time: float) -> np.ndarray:
        height, width = self.frame
        # To [-1, 1], so that in a view of the whole picture the corner pixels of frame and picture coincide.
        across, down = max(width - 1, 1) / 2, max(height - 1, 1) / 2
        unit = np.array([[1 / across, 0, (1 - width) / 2 / across], [0, 1 / down, (1 - height) / 2 / down], [0, 0, 1]])
        place = np.array([[self._scale, 0, self._centre[0]], [0, self._scale, self._centre[1]], [0, 0, 1]])
        return place @ self._relative(time) @ unit

    def _draw_motion(self, rng: np.random.Generator, length: int, settings: CameraSettings, travels: bool) -> None:
        speed = np.exp(rng.uniform(*np.log(settings.speed))) * travels
        tilt, zoom, roll = rng.random(3) ** 2 * travels  # Squared, so that strong ones are rare.
        self._travel = random_path(rng, length, speed)
        self._zoom = random_path(rng, length, settings.zoom * zoom, 1)
        self._roll = random_path(rng, length, np.radians(settings.rotation) * roll, 1)
        self._tilt = random_path(rng, length, settings.tilt * tilt / max(length - 1, 1))
        self._jitter = rng.standard_normal((length, 2)) * rng.random() * settings.shake

    def _relative(self, time: float) -> np.ndarray:
        """From [-1, 1] to the picture, for a view of its whole width, relative to the point where the path starts."""
        frames = np.arange(len(self._jitter))
        jitter = [np.interp(time, frames, axis) for axis in self._jitter.T]
        offset = self._pace * (self._travel(time) + jitter) * self._extent[0]
        roll = self._pace * self._roll(time)[0]
        half = np.exp(self._pace * self._zoom(time)[0]) * self._extent / 2
        tilt = self._pace * self._tilt(time)
        cos, sin = np.cos(roll), np.sin(roll)
        pose = np.array(
            [[cos * half[0], -sin * half[1], offset[0]], [sin * half[0], cos * half[1], offset[1]], [0, 0, 1]]
        )
        return pose @ np.array([[1, 0, 0], [0, 1, 0], [tilt[0], tilt[1], 1]])

    def _reach(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest (x, y) of the corners of all views of the whole width."""
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
        points = np.concatenate([transform(self._relative(time), corners) for time in range(length)])
        return points.min(axis=0), points.max(axis=0)

    def _shown(self, place: np.ndarray, points: np.ndarray, length: int) -> int:
        """How many of the points the first, middle and last frame show, summed, with the view at `place`."""
        self._put(place)
        limit = np.array(self.frame[::-1]) - 1
        seen = [transform(self.project(time), points) for time in (0, length // 2, length - 1)]
        return sum(int(((view >= 0) & (view <= limit)).all(axis=1).sum()) for view in seen)


class CameraClips:
    """A ClipSource: a random still, seen by a camera on a smooth random path.

    Nothing in the scene moves independently, and what is salient in the still is salient in the clip: its mask is
    warped in the same way (nearest neighbour).
    """

    def __init__(self, stills: Sequence[Still], settings: CameraSettings | None = None):
        """Raises InputError if there is no still."""
        if not stills:
            raise InputError("clips by a moving camera need at least one still picture, got none")
        self._stills = stills
        self._settings = settings or CameraSettings()

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """See ClipSource. Raises InputError if the picture or its mask cannot be read."""
        still = self._stills[rng.integers(len(self._stills))]
        image, mask = read_scene(still, self._settings.side)
        camera = Camera(rng, length, mask.shape, self._settings, focus=sample_points(mask))
        shutter = rng.uniform(0, self._settings.shutter)
        frames = [camera.shoot(image, t, shutter) for t in range(length)]
        return TrainingClip(still.name, frames, [camera.warp(mask, t, cv2.INTER_NEAREST) for t in range(length)])


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) after a homography (3, 3)."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def read_scene(source: Still | Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 (H, W, 3), BGR, and the mask of its salient object, uint8 (H, W), 0 or 255; all 0 for a path.

    A longest side of more than 1.5 `side` is reduced to that, because a frame of `side` pixels shows a part of the
    picture.
    Raises InputError: a file cannot be read, or picture and mask differ in size.
    """
    if isinstance(source, Still):
        image = read_frame(source.image)
        mask = read_mask([source.mask], image.shape[:2])
    else:
        image = read_frame(source)
        mask = np.zeros(image.shape[:2], np.uint8)
    height, width = frame_size(mask.shape, round(1.5 * side))
    if (height, width) == mask.shape:
        return image, mask
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def frame_size(picture: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of the picture, scaled down if necessary so that the longest side is at most `side`."""
    scale = min(1, side / max(picture))
    return max(round(picture[0] * scale), 1), max(round(picture[1] * scale), 1)


def sample_points(mask: np.ndarray) -> np.ndarray:
    """float64 (n, 2): about 200 points (x, y) of the mask, or all of them if there are fewer."""
    rows, columns = np.nonzero(mask)
    some = slice(None, None, max(len(rows) // 200, 1))
    return np.stack([columns[some], rows[some]], axis=1).astype(float)
