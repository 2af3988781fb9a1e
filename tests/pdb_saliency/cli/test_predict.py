"""`pdb-saliency predict` on videos and folders of frames."""

import cv2
import numpy as np
import pytest

from helpers.films import grey_frame, read_maps, read_video, write_frames
from pdb_saliency.video.source import open_source


def test_folder_to_every_kind_of_result(tmp_path, predict, capsys):
    frames = write_frames(tmp_path / "in", [grey_frame(30 * i) for i in range(7)], ".bmp")
    out = tmp_path / "new" / "out"
    assert predict(frames, "-o", out, "--save", "maps,masks,overlay,video", "--threshold", 0.35) == 0
    names = [f"{i:05d}.png" for i in range(7)]
    assert read_maps(out / "maps") == {name: 30 * i for i, name in enumerate(names)}
    assert read_maps(out / "masks") == {name: 255 * (30 * i / 255 >= 0.35) for i, name in enumerate(names)}
    pictures = [cv2.imread(str(out / "overlay" / name)) for name in names]
    video, fps = read_video(out / "overlay.mp4")
    assert fps == 24 and len(video) == 7
    for picture, frame in zip(pictures, video):
        inside = np.s_[
            8:-8, 8:-8
        ]  # At the border is a yellow line one pixel wide, for which video has too few colours.
        assert picture.shape == frame.shape and cv2.PSNR(picture[inside], frame[inside]) > 30
    assert sorted(path.name for path in out.iterdir()) == ["maps", "masks", "overlay", "overlay.mp4", "run.json"]
    captured = capsys.readouterr()
    assert captured.out.startswith("7 frames -> ") and str(out / "overlay.mp4") in captured.out
    assert captured.err.splitlines() == ["pdb-saliency: note: nothing here is trained"]


def test_maps_alone_are_the_default(tmp_path, predict):
    assert predict(write_frames(tmp_path / "in", [grey_frame(9)] * 2), "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["maps", "run.json"]


def test_video_keeps_its_rate_and_odd_size(tmp_path, predict):
    frames = [
        np.roll(np.tile(np.arange(0, 246, 6, dtype=np.uint8)[None, :, None], (31, 1, 3)), i, 1) for i in range(12)
    ]
    source = tmp_path / "clip.avi"
    encoder = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"FFV1"), 29.97, (41, 31))
    for frame in frames:
        encoder.write(frame)
    encoder.release()
    height, width = open_source(str(source)).__iter__().__next__().image.shape[:2]
    assert predict(source, "-o", tmp_path / "out", "--save", "maps,video") == 0
    assert list(read_maps(tmp_path / "out" / "maps", height, width)) == [f"{i:05d}.png" for i in range(12)]
    video, fps = read_video(tmp_path / "out" / "overlay.mp4")
    assert fps == pytest.approx(29.97, abs=0.01) and len(video) == 12
    assert video[0].shape == (height + height % 2, width + width % 2, 3)


def test_frames_of_several_sizes(tmp_path, predict):
    folder = write_frames(tmp_path / "in", [grey_frame(90), grey_frame(90, 100, 20), grey_frame(90, 10, 200)])
    assert predict(folder, "-o", tmp_path / "out", "--save", "maps,video") == 0
    shapes = [cv2.imread(str(path), 0).shape for path in sorted((tmp_path / "out" / "maps").iterdir())]
    assert shapes == [(48, 64), (100, 20), (10, 200)]
    video, _ = read_video(tmp_path / "out" / "overlay.mp4")
    assert [frame.shape for frame in video] == [(48, 64, 3)] * 3
    assert video[1][:, :20].max() < 30 < video[1][24, 32, 2], "tall: bars at the sides"
    assert video[2][:15].max() < 30 < video[2][24, 32, 2], "wide: bars above and below"
