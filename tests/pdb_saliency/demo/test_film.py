"""The drawn film: its masks match what it shows."""

import cv2
import numpy as np
import pytest

from pdb_saliency.demo.film import MeadowFilm


@pytest.fixture(scope="module")
def shots():
    film = MeadowFilm()
    return film, [film.frame(index) for index in (0, 15, 29)]


def test_masks_are_round_and_move(shots):
    _, frames = shots
    boxes = [cv2.boundingRect(mask) for _, mask in frames]
    for (_, mask), (x, y, width, height) in zip(frames, boxes):
        assert mask.shape == (270, 480) and set(np.unique(mask)) == {0, 255}
        assert abs(width - height) <= 2 and x > 0 and x + width < 480 and y + height < 270
        assert np.count_nonzero(mask) == pytest.approx(np.pi / 4 * width * height, rel=0.03)
    assert boxes[0][0] + 60 < boxes[1][0] and boxes[1][0] + 60 < boxes[2][0]
    assert boxes[0][2] < boxes[1][2] < boxes[2][2], "it comes nearer"


def test_masks_lie_on_the_ball(shots):
    """Inside it is white leather in full sun, and black; around it is grass, greener than anything on the ball."""
    for image, mask in shots[1]:
        blue, green, red = (channel.astype(int) for channel in cv2.split(image))
        kernel = np.ones((5, 5), np.uint8)
        inside = cv2.erode(mask, kernel) > 0
        ring = (cv2.dilate(mask, kernel, iterations=2) > 0) & (cv2.dilate(mask, kernel) == 0)
        greenness = 2 * green - blue - red
        assert np.median(greenness[ring]) > 40 > 15 > np.median(greenness[inside])
        assert image[inside].max() > 220 and image[inside].min() < 40


def test_background_moves_too(shots):
    (first, a), (second, b) = shots[1][:2]
    meadow = (a == 0) & (b == 0)
    meadow[:150] = False
    assert np.abs(first.astype(int) - second)[meadow].mean() > 5


def test_film_is_the_same_every_time(shots):
    image, mask = MeadowFilm().frame(15)
    assert (image == shots[1][1][0]).all() and (mask == shots[1][1][1]).all()
