import cv2
import numpy as np
import pytest

from helpers.fake_model import GreyModel
from pdb_saliency import cli
from pdb_saliency.demo.demo import render_clip, score
from pdb_saliency.demo.film import MeadowFilm
from pdb_saliency.errors import InputError, OutputError
from pdb_saliency.video.source import open_source


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
    """Inside there is white leather in full sun, and black; around it there is grass, greener than anything on the ball."""
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


def test_clip_shows_the_film(tmp_path):
    film = MeadowFilm(count=3, width=160, height=90)
    masks = render_clip(film, tmp_path / "new" / "clip.mp4")
    frames = [frame.image for frame in open_source(str(tmp_path / "new" / "clip.mp4"))]
    assert len(masks) == len(frames) == 3
    for index, frame in enumerate(frames):
        assert cv2.PSNR(frame, film.frame(index)[0]) > 28
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


def test_demo_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pdb_saliency.model.weights.load_model", lambda _: GreyModel())
    monkeypatch.setattr("pdb_saliency.demo.film.MeadowFilm", lambda: MeadowFilm(count=6, width=160, height=90))
    out = tmp_path / "demo out"
    out.mkdir()
    (out / "clip.mp4").write_bytes(b"of the user")
    assert cli.main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"overlay video: {out / 'overlay.mp4'}" in printed.out and "mean IoU 0." in printed.out
    assert "note: nothing here is trained" in printed.err
    assert open_source(str(out / "demo-clip.mp4")).count == open_source(str(out / "overlay.mp4")).count == 6
    assert (out / "clip.mp4").read_bytes() == b"of the user"
    assert len(list((out / "maps").iterdir())) == 6
