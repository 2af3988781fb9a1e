"""Pictures as frames: their pixels, damage, and animations."""

import struct

import cv2
import numpy as np
import pytest

from helpers.films import grey_frame, read_all, write_frames
from pdb_saliency.errors import InputError
from pdb_saliency.video.source import open_source


def test_grey_16_bit_and_alpha_become_8_bit_colour(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.full((4, 6), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "1.png"), np.full((4, 6), 77 * 257, np.uint16))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((4, 6, 4), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "3.tiff"), np.full((4, 6, 3), 77 * 257, np.uint16))
    for frame in open_source(str(tmp_path)):
        assert frame.image.dtype == np.uint8 and frame.image.shape == (4, 6, 3)
        assert (frame.image == 77).all(), frame.name


def test_exif_rotation_is_applied(tmp_path):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 8:] = 255
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # Orientation 6: show it turned clockwise by 90 degrees.
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + tag + struct.pack("<I", 0)
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    (frame,) = open_source(str(tmp_path))
    assert frame.image.shape == (16, 8, 3)
    assert frame.image[:7].max() < 30 and frame.image[9:].min() > 225


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("part", [0, 0.5, 0.98])
def test_truncated_picture_is_named_after_the_frames_before_it(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    write_frames(tmp_path, [noise] * 3, suffix)
    broken = tmp_path / f"00001{suffix}"
    broken.write_bytes(broken.read_bytes()[: int(part * broken.stat().st_size)])
    frames, error = read_all(open_source(str(tmp_path)))
    assert [frame.name for frame in frames] == ["00000"]
    assert str(broken) in error and "does not decode" in error and "\n" not in error


def test_truncated_jpeg_with_a_thumbnail(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    jpeg, thumbnail = (cv2.imencode(".jpg", picture)[1].tobytes() for picture in (noise, noise[:8, :8]))
    jpeg = jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]
    (tmp_path / "0.jpg").write_bytes(jpeg + b"data of a motion photo \xff\xda")
    assert read_all(open_source(str(tmp_path)))[1] is None
    (tmp_path / "0.jpg").write_bytes(jpeg[:-200])
    assert "does not decode" in read_all(open_source(str(tmp_path)))[1]


@pytest.mark.skipif(not hasattr(cv2, "imdecodeanimation"), reason="OpenCV before 4.11 has no animations")
@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animated_picture_is_a_video(tmp_path, suffix):
    animation = cv2.Animation()
    animation.frames = [np.dstack([grey_frame(25 * i), np.full((48, 64), 255, np.uint8)]) for i in range(8)]
    animation.durations = np.array([40, 60] * 4)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencodeanimation(suffix, animation)[1].tobytes())
    source = open_source(str(path))
    frames, error = read_all(source)
    assert error is None and [frame.name for frame in frames] == [f"{i:05d}" for i in range(8)]
    assert [round(float(frame.image.mean())) for frame in frames] == pytest.approx([25 * i for i in range(8)], abs=2)
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.04, 0.1, 0.14, 0.2, 0.24, 0.3, 0.34])
    assert source.count == 8 and source.fps == pytest.approx(7 / 0.34)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="this animation is truncated"):
        open_source(str(path))
    path.write_bytes(path.read_bytes()[:60] + bytes(200) + b"IEND")
    if suffix == ".png":
        with pytest.raises(InputError, match="does not decode"):
            open_source(str(path))
    still = write_frames(tmp_path / "still", [grey_frame(7)], suffix) / f"00000{suffix}"
    assert [frame.name for frame in open_source(str(still))] == ["00000"]
