"""The film as a video file, and the score against its masks."""

import cv2
import numpy as np
import pytest

from pdb_saliency.demo.demo import drawn_source, render_clip, score
from pdb_saliency.demo.film import MeadowFilm
from pdb_saliency.errors import InputError, OutputError


def test_clip_shows_the_film(tmp_path):
    film = MeadowFilm(count=3, width=160, height=90)
    frames = [frame.image for frame in drawn_source(tmp_path / "new" / "clip.mp4", 3, 160, 90)]
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        assert cv2.PSNR(frame, film.frame(index)[0]) > 28
    masks = render_clip(film, tmp_path / "again.mp4")
    assert all((mask == film.frame(index)[1]).all() for index, mask in enumerate(masks)) and len(masks) == 3
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        render_clip(film, tmp_path / "file" / "clip.mp4")


def test_score(tmp_path):
    truth = np.zeros((10, 10), np.uint8)
    truth[:, :5] = 255
    half = np.zeros((10, 10), np.uint8)
    half[:5, :5] = 255
    for index, picture in enumerate((truth, half)):
        cv2.imwrite(str(tmp_path / f"{index:05d}.png"), picture)
    assert score(tmp_path, [truth], 0.42) == (1.0, 0.0)
    assert score(tmp_path, [truth, truth], 0.42) == pytest.approx((0.75, 0.125))
    with pytest.raises(InputError, match="00002.png"):
        score(tmp_path, [truth] * 3, 0.42)
