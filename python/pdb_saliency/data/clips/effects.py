"""Effects that make the parts of a composite look as if one camera had filmed them together."""

from __future__ import annotations

import cv2
import numpy as np


def premultiply(rgba: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4): colours times alpha."""
    alpha = rgba[:, :, 3]
    return cv2.merge([cv2.multiply(rgba[:, :, :3], cv2.merge([alpha, alpha, alpha]), scale=1 / 255), alpha])


def colour_statistics(image: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """float64 (2, 3): mean and standard deviation of L, a and b (8 bit) over a picture, uint8 (H, W, 3), BGR.

    weight: uint8 (H, W); pixels with a weight below 128 are left out. None: all count.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    mask = None if weight is None else np.where(weight >= 128, np.uint8(255), np.uint8(0))
    return np.stack(cv2.meanStdDev(lab, mask=mask))[:, :, 0]


def match_colours(rgba: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    """uint8 (h, w, 4): a cut-out with its colour statistics moved towards `target` by `strength`, 0 to 1.

    rgba: uint8 (h, w, 4), not premultiplied. target: float64 (2, 3), see `colour_statistics`.
    After Reinhard et al., Color Transfer between Images (2001), but only in part, and with contrast changed by a factor
    of at most two.
    """
    if not strength:
        return rgba
    own = colour_statistics(rgba[:, :, :3], rgba[:, :, 3])
    mean = own[0] + strength * (target[0] - own[0])
    gain = 1 + strength * (np.clip(target[1] / np.maximum(own[1], 1), 0.5, 2) - 1)
    table = (np.arange(256)[:, None] - own[0]) * gain + mean
    table = np.rint(table.clip(0, 255)).astype(np.uint8).reshape(1, 256, 3)
    lab = cv2.LUT(cv2.cvtColor(rgba[:, :, :3], cv2.COLOR_BGR2LAB), table)
    return cv2.merge([cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), rgba[:, :, 3]])


def film(frames: list[np.ndarray], rng: np.random.Generator, grain: float, quality: int) -> list[np.ndarray]:
    """The frames, uint8 (H, W, 3), with a sensor's grain and a codec's blocks.

    grain: standard deviation in grey levels; 0 for none. quality: of a JPEG, 0 to 100; 100 leaves compression out.
    """
    if grain > 0:
        height, width = frames[0].shape[:2]
        pattern = np.rint(grain * rng.standard_normal((height, width), dtype=np.float32))
        # One pattern, shifted differently in each frame: as good as a new one, and far cheaper.
        shifts = [(int(rng.integers(height)), int(rng.integers(width))) for _ in frames]
        # Lightening and darkening separately, because 8-bit arithmetic saturates.
        signs = [cv2.merge([part.clip(0, 255).astype(np.uint8)] * 3) for part in (pattern, -pattern)]
        frames = [
            cv2.subtract(cv2.add(frame, np.roll(signs[0], shift, axis=(0, 1))), np.roll(signs[1], shift, axis=(0, 1)))
            for frame, shift in zip(frames, shifts)
        ]
    if quality < 100:
        frames = [
            cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
            for f in frames
        ]
    return frames
