"""Videos written by OpenCV, without ffmpeg."""

import numpy as np
import pytest

from helpers.films import grey_frame, read_video
from pdb_saliency.video.encoder import Mp4Writer


@pytest.mark.parametrize("size", [(1, 1), (31, 41), (2, 99)])
def test_odd_pictures_become_a_video_without_losing_a_row(tmp_path, size):
    picture = np.full((*size, 3), 40, np.uint8)
    picture[-1], picture[:, -1] = 220, 220
    video = Mp4Writer(tmp_path / "odd.mp4", None)
    for _ in range(3):
        video.write(picture)
    video.finish()
    frames, _ = read_video(tmp_path / "odd.mp4")
    assert len(frames) == 3 and frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert (frames[0][size[0] - 1 :, size[1] - 1 :] > 150).all(), "last row and column, and their repetition"


def test_a_frame_too_large_for_the_codec_is_shrunk(tmp_path):
    video = Mp4Writer(tmp_path / "wide.mp4", None)
    video.write(grey_frame(90, 60, 12000))
    video.finish()
    assert read_video(tmp_path / "wide.mp4")[0][0].shape == (42, 8190, 3)


def test_a_strange_frame_rate_is_replaced(tmp_path):
    for fps in (None, 0.0, float("nan"), float("inf"), 1e9, 1e-9):
        assert rate_written(tmp_path, fps) == 24


@pytest.mark.parametrize("fps", [0.5, 29.97003, 65.5359, 66.6667, 119.8765, 655.377, 6553.77, 65535.0])
def test_a_frame_rate_finer_than_the_codec_counts_is_rounded(tmp_path, fps):
    """MPEG-4 rates are fractions of integers up to 65535, and OpenCV uses decimal fractions."""
    assert rate_written(tmp_path, fps) == pytest.approx(fps, rel=1e-4, abs=5e-4)


def rate_written(tmp_path, fps):
    video = Mp4Writer(tmp_path / "rate.mp4", fps)
    video.write(grey_frame(1))
    video.finish()
    return read_video(tmp_path / "rate.mp4")[1]
