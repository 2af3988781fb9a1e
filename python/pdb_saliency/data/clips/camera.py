"""A still seen by a moving camera."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.sets.items import Still
from pdb_saliency.errors import InputError

from .paths import motion_blur, random_path
from .scenes import frame_size, read_scene, sample_points
from .settings import CameraSettings


class Camera:
    """Where each frame of a clip lies on the picture.

    view(t): float64 (3, 3), from frame coordinates to picture coordinates (x, y, 1) of pixel centres, up to scale; t in
    frames, a fraction allowed. project(t): its inverse. The pixel centres of frames 0 ... length - 1 all lie on the picture.
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
        """picture: (height, width). travels: whether the camera moves; None leaves it to chance.
        focus: float64 (n, 2), picture points (x, y); of a few places for the view the one that shows most of them is taken.
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
        """float64 (2,): the picture point (x, y) in the middle of the frame."""
        return transform(self.view(time), (np.array(self.frame[::-1]) - 1) / 2)

    def pixel(self, time: float) -> float:
        """The width of a frame pixel on the picture, in picture pixels, in the middle of the frame."""
        middle = (np.array(self.frame[::-1]) - 1) / 2
        ends = transform(self.view(time), np.stack([middle - [0.5, 0], middle + [0.5, 0]]))
        return float(np.linalg.norm(ends[1] - ends[0]))

    def speed(self, length: int) -> float:
        """Frame pixels that the picture moves by from frame to frame in the middle of the frame, on average."""
        centres = np.array([self.centre(time) for time in range(length)])
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / self.pixel(length // 2)
        return float(steps.mean()) if length > 1 else 0.0

    def shoot(self, image: np.ndarray, time: float, shutter: float) -> np.ndarray:
        """The frame of a picture, uint8 (H, W, 3), blurred by what it moves while the shutter is open (in frames)."""
        point = self.centre(time)
        before, after = (transform(self.project(time + half), point) for half in (-shutter / 2, shutter / 2))
        return motion_blur(self.warp(image, time), after - before)

    def warp(self, image: np.ndarray, time: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
        """The frame of a picture that has the camera's picture size and any number of channels."""
        # Replication serves rounding errors only: no pixel centre lies outside.
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
        # To [-1, 1], so that the corner pixels of the frame meet the corner pixels of a view of the whole picture.
        across, down = max(width - 1, 1) / 2, max(height - 1, 1) / 2
        unit = np.array([[1 / across, 0, (1 - width) / 2 / across], [0, 1 / down, (1 - height) / 2 / down], [0, 0, 1]])
        place = np.array([[self._scale, 0, self._centre[0]], [0, self._scale, self._centre[1]], [0, 0, 1]])
        return place @ self._relative(time) @ unit

    def _draw_motion(self, rng: np.random.Generator, length: int, settings: CameraSettings, travels: bool) -> None:
        speed = np.exp(rng.uniform(*np.log(settings.speed))) * travels
        tilt, zoom, roll = rng.random(3) ** 2 * travels  # Squared: strong ones are rare.
        self._travel = random_path(rng, length, speed)
        self._zoom = random_path(rng, length, settings.zoom * zoom, 1)
        self._roll = random_path(rng, length, np.radians(settings.rotation) * roll, 1)
        self._tilt = random_path(rng, length, settings.tilt * tilt / max(length - 1, 1))
        self._jitter = rng.standard_normal((length, 2)) * rng.random() * settings.shake

    def _relative(self, time: float) -> np.ndarray:
        """From [-1, 1] to the picture for a view of its whole width, about the point that the camera's path starts from."""
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
        """Lowest and highest (x, y) of the corners of all views of the whole width."""
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
        points = np.concatenate([transform(self._relative(time), corners) for time in range(length)])
        return points.min(axis=0), points.max(axis=0)

    def _shown(self, place: np.ndarray, points: np.ndarray, length: int) -> int:
        """How many of the points the frames show, with the view at `place`."""
        self._put(place)
        limit = np.array(self.frame[::-1]) - 1
        seen = [transform(self.project(time), points) for time in (0, length // 2, length - 1)]
        return sum(int(((view >= 0) & (view <= limit)).all(axis=1).sum()) for view in seen)


class CameraClips:
    """A ClipSource: a random still, seen by a camera on a smooth random path.

    What is salient in the still stays so: its mask moves along (nearest neighbour). Nothing in the scene moves by itself.
    """

    def __init__(self, stills: Sequence[Still], settings: CameraSettings | None = None):
        """Raises InputError when there is no still."""
        if not stills:
            raise InputError("clips by a moving camera need at least one still picture, got none")
        self._stills = stills
        self._settings = settings or CameraSettings()

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        """Raises InputError when the picture or its mask cannot be read."""
        still = self._stills[rng.integers(len(self._stills))]
        image, mask = read_scene(still, self._settings.side)
        camera = Camera(rng, length, mask.shape, self._settings, focus=sample_points(mask))
        shutter = rng.uniform(0, self._settings.shutter)
        frames = [camera.shoot(image, t, shutter) for t in range(length)]
        return TrainingClip(still.name, frames, [camera.warp(mask, t, cv2.INTER_NEAREST) for t in range(length)])


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) under a homography (3, 3)."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]
