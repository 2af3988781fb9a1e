"""What is placed in a scene: movers, things at rest, scenery in front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from .camera import Camera, transform
from .cutouts import Cutout, cut_out
from .effects import colour_statistics, match_colours, premultiply
from .layers import Layer, Shadow, Wobble
from .paths import random_path
from .settings import CutoutSettings


@dataclass
class Stage:
    """A scene in which things are placed.

    picture: uint8 (H, W, 3). length: frames of the clip. tracked: whether the camera follows the movers.
    colours: of the picture, see `colour_statistics`. spots: the points (x, y) of the frame where things are so far.
    """

    camera: Camera
    settings: CutoutSettings
    picture: np.ndarray
    length: int
    tracked: bool
    colours: np.ndarray = field(init=False)
    spots: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        self.colours = colour_statistics(np.ascontiguousarray(self.picture[::4, ::4]))

    def free_spot(self, rng: np.random.Generator, leaves: bool) -> np.ndarray:
        """float64 (2,): of one to four random points (x, y) of the frame, the farthest from everything placed so far.

        So things are mostly side by side, and sometimes one in front of the other.
        leaves: the point is near the left or right border.
        """
        size = np.array(self.camera.frame[::-1])
        candidates = rng.uniform(0.15, 0.85, (4, 2))
        if leaves:
            candidates[:, 0] = np.where(rng.random(4) < 0.5, rng.uniform(0, 0.1, 4), rng.uniform(0.9, 1, 4))
        candidates *= size
        spot = max(
            candidates[: rng.integers(1, 5)],
            key=lambda spot: min((np.linalg.norm(spot - other) for other in self.spots), default=0),
        )
        self.spots.append(spot)
        return spot

    def avoid(self, mask: np.ndarray) -> None:
        """Things placed later keep away from this object of the scene. mask: uint8 (H, W), not empty."""
        self.spots.append(transform(self.camera.project(self.length // 2), _middle(mask)))


def place_cutout(rng: np.random.Generator, stage: Stage, cutout: Cutout, *, moves: bool, labelled: bool) -> Layer:
    """A cut-out of random size, colours and place, moving or at rest. Raises InputError if it cannot be read."""
    settings, camera = stage.settings, stage.camera
    rgba = cutout.load()
    if rng.random() < 0.5:
        rgba = cv2.flip(rgba, 1)
    moment = int(rng.integers(stage.length))
    spot = stage.free_spot(rng, leaves=moves and not stage.tracked and rng.random() < settings.leaves)
    pixel = camera.pixel(moment)
    share = np.exp(rng.uniform(*np.log(settings.area)))
    rgba = premultiply(match_colours(rgba, stage.colours, settings.match * rng.random()))
    rgba = _resize(rgba, share, np.array(camera.frame[::-1]) * pixel)
    anchor = transform(camera.view(moment), spot)
    shadow = _shadow(rng) if rng.random() < settings.shadow else None
    angle = np.radians(rng.normal(0, 7))
    return _actor(rng, stage, rgba, anchor, moment, angle=angle, moves=moves, labelled=labelled, shadow=shadow)


def place_own(rng: np.random.Generator, stage: Stage, own: np.ndarray, *, moves: bool) -> Layer:
    """The scene's own object, moving away from or into its place, or at rest in front of everything placed so far.

    own: its mask, uint8 (H, W), 0 or 255.
    """
    anchor = _middle(own)
    moment = int(rng.integers(stage.length))
    stage.avoid(own)
    rgba = premultiply(cut_out(stage.picture, own))
    return _actor(rng, stage, rgba, anchor, moment, angle=0.0, moves=moves, labelled=moves, depth=0.0)


def place_strip(rng: np.random.Generator, stage: Stage) -> Layer:
    """A pole or trunk at rest in front of the scene, from top to bottom, made of the scene's own texture."""
    camera, picture = stage.camera, stage.picture
    moment = int(rng.integers(stage.length))
    pixel = camera.pixel(moment)
    height, width = picture.shape[:2]
    thickness = min(max(round(rng.uniform(0.02, 0.08) * camera.frame[1] * pixel), 1), width)
    left = int(rng.integers(width - thickness + 1))
    bark = cv2.flip(picture[:, left : left + thickness], -1)
    bark = cv2.resize(bark, (thickness, 2 * height), interpolation=cv2.INTER_LINEAR)
    # Lit from one side, like something round.
    across = np.linspace(-0.9, 0.9, thickness)
    light = rng.uniform(0.4, 1) * np.cos(across + rng.uniform(-0.5, 0.5))
    rgba = np.dstack([np.rint(bark * light[None, :, None]).astype(np.uint8), np.full(bark.shape[:2], 255, np.uint8)])
    spot = np.array([rng.uniform(0.1, 0.9) * camera.frame[1], camera.frame[0] / 2])
    anchor = transform(camera.view(moment), spot)
    angle = np.radians(rng.normal(0, 5))
    return _actor(rng, stage, _padded(rgba), anchor, moment, angle=angle, moves=False, labelled=False)


def _actor(
    rng: np.random.Generator,
    stage: Stage,
    rgba: np.ndarray,
    anchor: np.ndarray,
    moment: int,
    *,
    angle: float,
    moves: bool,
    labelled: bool,
    shadow: Shadow | None = None,
    depth: float | None = None,
) -> Layer:
    """A layer whose centre is at `anchor` in the scene at frame `moment`, turned by `angle` (in radians).

    depth: see `_resting`.
    """
    centre = (np.array(rgba.shape[1::-1]) - 1) / 2
    place = _moving(rng, stage, anchor, moment) if moves else _resting(rng, stage, anchor, moment, depth)
    growth = random_path(rng, stage.length, moves * 0.015 * rng.random() ** 2, 1)
    fast = 10 if rng.random() < 0.1 else 1  # Largest turn in degrees a frame: some things spin.
    turn = random_path(rng, stage.length, moves * np.radians(fast * rng.random()), 1)
    grown, upright = growth(moment)[0], turn(moment)[0] - angle

    def pose(time: float) -> np.ndarray:
        scale, turned = np.exp(growth(time)[0] - grown), turn(time)[0] - upright
        linear = scale * np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = linear, place(time) - linear @ centre
        return matrix

    wobble = _wobble(rng, rgba.shape[:2], stage.settings.wobble * rng.random()) if moves else None
    return Layer(rgba, pose, labelled, wobble, shadow)


def _moving(rng: np.random.Generator, stage: Stage, anchor: np.ndarray, moment: int) -> Callable[[float], np.ndarray]:
    """The path, time -> place in the scene, of something that moves on its own, at `anchor` at frame `moment`."""
    camera, settings = stage.camera, stage.settings
    width = camera.frame[1]
    pace = camera.speed(stage.length)
    if stage.tracked and pace >= settings.speed[0] * width:
        # It stays in its place in the frame, except for a drift too slow to cancel its motion through the scene.
        drift = random_path(rng, stage.length, 0.3 * pace * rng.random())
        spot = transform(camera.project(moment), anchor)
        return lambda time: transform(camera.view(time), spot + drift(time) - drift(moment))
    speed = np.exp(rng.uniform(*np.log(settings.speed)))
    path = random_path(rng, stage.length, speed * width * camera.pixel(moment))
    return lambda time: anchor + path(time) - path(moment)


def _resting(
    rng: np.random.Generator, stage: Stage, anchor: np.ndarray, moment: int, depth: float | None
) -> Callable[[float], np.ndarray]:
    """The same for a thing at rest. depth: how much more than the background the camera's travel shifts it.

    It is a share of that shift; None: random, up to CutoutSettings.parallax.
    """
    nearer = stage.settings.parallax * rng.random() if depth is None else depth
    start = stage.camera.centre(moment)
    return lambda time: anchor - nearer * (stage.camera.centre(time) - start)


def _middle(mask: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    return np.array([left + (width - 1) / 2, top + (height - 1) / 2])


def _resize(rgba: np.ndarray, share: float, room: np.ndarray) -> np.ndarray:
    """A premultiplied cut-out, resized to a share of the area of `room`, in which it must fit.

    room: (width, height) in pixels.
    """
    alpha = rgba[:, :, 3]
    factor = np.sqrt(share * room.prod() / max(alpha.sum() / 255, 1))
    # Enlarged more than this, it would be less sharp than any scene.
    factor = min(factor, 1.5, *(0.9 * room / alpha.shape[::-1]))
    size = [max(round(side * factor), 1) for side in alpha.shape[::-1]]
    return _padded(cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR))


def _padded(rgba: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(rgba, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)


def _shadow(rng: np.random.Generator) -> Shadow:
    return Shadow(
        strength=rng.uniform(0.15, 0.5),
        squash=rng.choice([-1, 1]) * rng.uniform(0.1, 0.5),
        lean=rng.uniform(-0.8, 0.8),
        softness=rng.uniform(0.01, 0.06),
    )


def _wobble(rng: np.random.Generator, size: tuple[int, int], share: float) -> Wobble | None:
    if share * max(size) < 0.3:
        return None
    return Wobble(
        amplitude=share * np.array(size[::-1], float) * rng.uniform(0.3, 1, 2),
        waves=rng.uniform(0.2, 1.2, (2, 2)) * rng.choice([-1, 1], (2, 2)),
        frequency=2 * np.pi / rng.uniform(8, 24),
        phase=rng.uniform(0, 2 * np.pi, 2),
    )
