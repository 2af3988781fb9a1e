"""The drawn film as a video file, and a score of the maps against its known masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pdb_saliency.errors import OutputError
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.encoder import Mp4Writer
from pdb_saliency.video.frame import Source
from pdb_saliency.video.pictures import read_picture
from pdb_saliency.video.source import open_source

from .film import MeadowFilm

_FPS = 15.0


def render_clip(film: MeadowFilm, path: Path) -> list[np.ndarray]:
    """Write the film to an mp4 and return its masks, uint8 (H, W), 255 on the ball. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be created ({error.strerror})") from error
    masks = []
    video = Mp4Writer(path, _FPS)
    try:
        for index in progress_bar("drawing", iterable=range(film.count), unit="frame"):
            image, mask = film.frame(index)
            video.write(image)
            masks.append(mask)
        video.finish()
    finally:
        video.discard()
    return masks


def drawn_source(path: Path, count: int, width: int, height: int) -> Source:
    """A film of `count` frames of width x height pixels, written to the mp4 `path` and opened."""
    render_clip(MeadowFilm(count, width, height), path)
    return open_source(str(path))


def score(maps: Path, truth: list[np.ndarray], threshold: float) -> tuple[float, float]:
    """Compare the folder of maps 00000.png, 00001.png, ... with the true masks (each non-zero on the object).

    Returns the means over all frames of the intersection over union at `threshold`, and of the absolute error (MAE),
    both in [0, 1]. Raises InputError for a missing map.
    """
    overlaps, errors = [], []
    for index, mask in enumerate(truth):
        saliency = read_picture(maps / f"{index:05d}.png")[:, :, 0] / 255
        predicted, true = saliency >= threshold, mask > 0
        union = np.count_nonzero(predicted | true)
        overlaps.append(np.count_nonzero(predicted & true) / union if union else 1.0)
        errors.append(np.abs(saliency - true).mean())
    return float(np.mean(overlaps)), float(np.mean(errors))
