"""A short film with known masks, drawn in code: a football rolls over a meadow while the camera moves along.

World coordinates in metres: x to the right, y up, z away from the camera; the ground is y = 0. Colours are BGR, linear
light until the last step.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

_SUN = np.array([-0.50, 0.72, -0.48]) / np.linalg.norm([-0.50, 0.72, -0.48])  # Direction towards the sun.
_CAMERA_HEIGHT = 0.75
_BALL_RADIUS = 0.26
_TEXELS_PER_METRE = 160
_TEXTURE = 1024
_GOLDEN = (1 + math.sqrt(5)) / 2


class MeadowFilm:
    """A film of `count` frames of width x height pixels; equal arguments give equal films."""

    def __init__(self, count: int = 30, width: int = 480, height: int = 270):
        self.count, self.width, self.height = count, width, height
        self._focal = 0.95 * width
        self._horizon = 0.36 * height
        random = np.random.default_rng(7)
        self._grass = _mipmaps(_grass_texture(random))
        self._backdrop = _backdrop(random, 2 * width, math.ceil(self._horizon) + 8)
        self._leather = _noise(random, 256, 1.2)

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame `index`: image uint8 (H, W, 3) BGR, and mask uint8 (H, W), 255 on the ball."""
        time = index / max(1, self.count - 1)
        camera = 1.1 * time
        centre = np.array([-0.75 + 2.45 * time, _BALL_RADIUS, 2.5 - 0.45 * time])
        light = self._background(camera, centre)
        ball, cover = self._ball(centre, camera, roll=2.45 * time / _BALL_RADIUS)
        light += cover[:, :, None] * (ball - light)
        return self._develop(light, index), np.where(cover >= 0.5, np.uint8(255), np.uint8(0))

    def _background(self, camera: float, ball: np.ndarray) -> np.ndarray:
        rows = np.arange(self.height, dtype=np.float32)[:, None] - self._horizon
        columns = (np.arange(self.width, dtype=np.float32)[None, :] - self.width / 2) / self._focal
        z = self._focal * _CAMERA_HEIGHT / np.maximum(rows, 0.5) * np.ones_like(columns)
        x = camera + columns * z
        light = _sample(self._grass, x, z, footprint=z * z / (self._focal * _CAMERA_HEIGHT))
        light *= _sunlight(x, z, ball)[:, :, None]
        haze = np.clip((z - 6) / 90, 0, 0.3)[:, :, None]
        light += haze * (np.array([0.40, 0.46, 0.36], np.float32) - light)
        # Distant things shift little when the camera moves.
        shift = 12 * camera
        view = np.float32([[1, 0, -shift - self.width / 4], [0, 1, 0]])
        far = cv2.warpAffine(self._backdrop, view, (self.width, self._backdrop.shape[0]), borderMode=cv2.BORDER_REFLECT)
        blend = np.clip((rows[: far.shape[0]] + 1.5) / 3, 0, 1)[:, :, None]
        light[: far.shape[0]] = far + blend * (light[: far.shape[0]] - far)
        return light

    def _ball(self, centre: np.ndarray, camera: float, roll: float) -> tuple[np.ndarray, np.ndarray]:
        """Colour (H, W, 3) and coverage (H, W) of the ball, from four samples per pixel."""
        fine = 2
        radius = self._focal * _BALL_RADIUS / centre[2]
        u0 = self.width / 2 + self._focal * (centre[0] - camera) / centre[2]
        v0 = self._horizon + self._focal * (_CAMERA_HEIGHT - centre[1]) / centre[2]
        left, top = math.floor(u0 - radius) - 1, math.floor(v0 - radius) - 1
        side = math.ceil(2 * radius) + 4
        v, u = np.mgrid[: side * fine, : side * fine].astype(np.float32)
        u, v = ((u + 0.5) / fine + left - u0) / radius, ((v + 0.5) / fine + top - v0) / radius
        inside = u * u + v * v < 1
        u, v = u[inside], v[inside]
        sharp = np.zeros((*inside.shape, 4), np.float32)  # Colour and coverage.
        sharp[inside] = np.c_[
            self._shade(np.stack([u, -v, -np.sqrt(1 - u * u - v * v)], axis=1), roll), np.ones_like(u)
        ]
        sprite = cv2.resize(sharp, (side, side), interpolation=cv2.INTER_AREA)
        place = np.float32([[1, 0, left], [0, 1, top]])
        sprite = cv2.warpAffine(sprite, place, (self.width, self.height), flags=cv2.INTER_NEAREST)
        return sprite[:, :, :3] / np.maximum(sprite[:, :, 3:], 1e-6), sprite[:, :, 3]

    def _shade(self, normal: np.ndarray, roll: float) -> np.ndarray:
        """Light (n, 3) that the points of the ball with these normals (n, 3) send to the camera."""
        albedo, relief = _football(normal @ _rolling(roll), self._leather)
        normal = normal + relief @ _rolling(roll).T
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        sun = np.clip(normal @ _SUN, 0, None)[:, None]
        up = (normal[:, 1:2] + 1) / 2
        sky, meadow = np.array([0.50, 0.40, 0.33]), np.array([0.03, 0.11, 0.06])
        near_ground = np.clip(0.35 + 0.9 * up, 0, 1)
        halfway = _SUN + [0, 0, -1]
        gloss = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, None)[:, None] ** 60
        warm = np.array([0.82, 0.95, 1.05])
        return albedo * near_ground * (up * sky + (1 - up) * meadow) + (albedo * sun + 0.25 * gloss) * warm

    def _develop(self, light: np.ndarray, index: int) -> np.ndarray:
        """Slight blur of the lens, film curve, vignette and grain."""
        light = cv2.GaussianBlur(light, (0, 0), 0.6)
        rows = np.linspace(-1, 1, self.height)[:, None]
        columns = np.linspace(-1, 1, self.width)[None, :]
        light = light * (1 - 0.16 * (rows**2 + columns**2))[:, :, None]
        image = np.clip(1 - np.exp(-1.7 * np.clip(light, 0, None)), 0, 1) ** (1 / 2.2)
        grain = np.random.default_rng(index).normal(0, 0.012, image.shape)
        return np.rint(255 * np.clip(image + grain, 0, 1)).astype(np.uint8)


def _noise(random: np.random.Generator, size: int, falloff: float) -> np.ndarray:
    """float32 (size, size), mean 0, standard deviation 1, seamless; amplitude ~ frequency^-falloff."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.standard_normal((size, size))) * frequency**-falloff
    field = np.fft.irfft2(spectrum, (size, size))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _mix(a: list[float], b: list[float], weight: np.ndarray) -> np.ndarray:
    """From colour a to colour b: float32 (..., 3)."""
    a, b = np.float32(a), np.float32(b)
    return a + np.clip(weight, 0, 1)[..., None] * (b - a)


def _grass_texture(random: np.random.Generator) -> np.ndarray:
    """float32 (size, size, 3): blades, tufts, dry patches and a few daisies."""
    blades = cv2.GaussianBlur(random.standard_normal((_TEXTURE, _TEXTURE)).astype(np.float32), (0, 0), 0.7, sigmaY=4)
    blades /= blades.std()
    tufts, patches = _noise(random, _TEXTURE, 0.9), _noise(random, _TEXTURE, 1.6)
    grass = _mix([0.012, 0.050, 0.022], [0.045, 0.24, 0.12], 0.45 + 0.20 * blades + 0.16 * tufts)
    grass += np.clip(0.16 * patches, 0, 0.5)[:, :, None] * (np.float32([0.10, 0.30, 0.30]) - grass)
    for x, y in random.integers(8, _TEXTURE - 8, (60, 2)).tolist():
        cv2.ellipse(grass, (x, y), (3, 5), 0, 0, 360, (0.62, 0.66, 0.66), -1, cv2.LINE_AA)
        cv2.circle(grass, (x, y), 1, (0.05, 0.5, 0.6), -1, cv2.LINE_AA)
    return grass


def _mipmaps(texture: np.ndarray) -> list[np.ndarray]:
    levels = [texture]
    while levels[-1].shape[0] > 8:
        side = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA))
    return levels


def _sample(mipmaps: list[np.ndarray], x: np.ndarray, z: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """The texture at ground points (x, z), between the two mipmaps with texels closest to the pixel's footprint."""
    level = np.clip(np.log2(np.maximum(footprint * _TEXELS_PER_METRE, 1)) - 0.7, 0, len(mipmaps) - 1)
    light = np.zeros((*x.shape, 3), np.float32)
    for i, texture in enumerate(mipmaps):
        weight = np.clip(1 - np.abs(level - i), 0, None).astype(np.float32)
        if weight.any():
            scale = _TEXELS_PER_METRE / 2**i
            u, v = (x * scale).astype(np.float32), (z * scale).astype(np.float32)
            side = texture.shape[0]
            light += weight[:, :, None] * cv2.remap(
                texture, u % side, v % side, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
            )
    return light


def _sunlight(x: np.ndarray, z: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """The light that remains at ground points (x, z), beside the ball and in its shadow: float32."""
    to_ball = np.stack([ball[0] - x, np.full_like(x, ball[1]), ball[2] - z], axis=-1)
    along = to_ball @ _SUN
    distance = np.sqrt(np.maximum((to_ball**2).sum(-1) - along**2, 0)) / _BALL_RADIUS
    shadow = np.clip((1.12 - distance) / 0.3, 0, 1)
    shadow = shadow * shadow * (3 - 2 * shadow)
    contact = np.exp(-(to_ball[..., 0] ** 2 + to_ball[..., 2] ** 2) / (0.6 * _BALL_RADIUS) ** 2)
    return ((1.25 - 0.95 * shadow) * (1 - 0.7 * contact)).astype(np.float32)


def _backdrop(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sky, hills and trees up to the horizon: float32 (height, width, 3)."""
    side = 1 << (width - 1).bit_length()
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    clouds = cv2.resize(_noise(random, side, 1.7)[: side // 2], (width, height))
    light = _mix([0.75, 0.42, 0.20], [0.78, 0.66, 0.52], rows * np.ones((1, width), np.float32))
    light += (np.clip(0.25 + 0.45 * clouds, 0, 1) * (0.9 - 0.4 * rows))[:, :, None] * (
        np.float32([0.85, 0.85, 0.83]) - light
    )
    for base, swing, falloff, dark, bright in (
        (0.72, 0.05, 2.2, [0.30, 0.30, 0.22], [0.36, 0.38, 0.28]),
        (0.80, 0.07, 1.1, [0.030, 0.055, 0.028], [0.085, 0.155, 0.085]),
        (0.90, 0.05, 1.1, [0.010, 0.026, 0.012], [0.035, 0.095, 0.045]),
    ):
        profile = cv2.GaussianBlur(_noise(random, side, falloff)[:1, :width], (0, 0), 2)
        leaves = _noise(random, side, 0.8)[:height, :width]
        cover = np.clip((rows - base - swing * profile - 0.01 * leaves) * height / 2, 0, 1)[:, :, None]
        light += cover * (_mix(dark, bright, 0.5 + 0.3 * leaves) - light)
    return cv2.GaussianBlur(light, (0, 0), 1.3)


def _rolling(angle: float) -> np.ndarray:
    """(3, 3): normal @ matrix turns a direction of the world into one of the ball that has rolled to the right."""
    cos, sin = math.cos(angle), math.sin(angle)
    tilt_cos, tilt_sin = math.cos(0.5), math.sin(0.5)
    roll = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return roll @ np.array([[1, 0, 0], [0, tilt_cos, tilt_sin], [0, -tilt_sin, tilt_cos]])


def _panels() -> tuple[np.ndarray, np.ndarray]:
    """A football's 12 pentagons (12, 3) and 20 hexagons (20, 3): directions, over the distances from its centre."""
    signs = (-1, 1)
    corners = [p for a in signs for b in signs for p in _cycled(0, a, b * _GOLDEN)]
    faces = [(a, b, c) for a in signs for b in signs for c in signs]
    faces += [p for a in signs for b in signs for p in _cycled(0, a * _GOLDEN, b / _GOLDEN)]
    # A truncated icosahedron of edge 1: its pentagons are 2.3274 from the centre, its hexagons 2.2673.
    return tuple(
        np.array(p) / np.linalg.norm(p, axis=1, keepdims=True) / d for p, d in ((corners, 2.3274), (faces, 2.2673))
    )


def _cycled(x: float, y: float, z: float) -> list[tuple[float, float, float]]:
    return [(x, y, z), (z, x, y), (y, z, x)]


def _football(direction: np.ndarray, leather: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (n, 3) and bend of the normal (n, 3) at directions (n, 3) from the ball's centre."""
    pentagons, hexagons = _panels()
    panels = np.concatenate([pentagons, hexagons])
    height = direction @ panels.T
    order = np.argpartition(-height, (0, 1), axis=1)
    first, second = order[:, 0], order[:, 1]
    rows = np.arange(len(direction))
    seam = np.exp(-(((height[rows, first] - height[rows, second]) / 0.008) ** 2))[:, None]
    around = np.arctan2(direction[:, 2], direction[:, 0]) / (2 * np.pi) * 256
    along = np.arccos(np.clip(direction[:, 1], -1, 1)) / np.pi * 256
    wear = leather[along.astype(int) % 256, around.astype(int) % 256][:, None]
    albedo = np.where((first < len(pentagons))[:, None], [0.020, 0.018, 0.018], [0.78, 0.80, 0.80])
    albedo = albedo * (1 - 0.75 * seam) * (1 + 0.05 * wear)
    away = panels[first] - panels[second]
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return albedo, -0.5 * seam * away
