import dataclasses
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from helpers.fake_model import GreyModel, PositionModel
from helpers.films import grey_frame, read_maps, read_video, write_frames
from pdb_saliency import cli
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.inference.clips import clips
from pdb_saliency.inference.engine import Engine
from pdb_saliency.predict.job import resolve_device, run, saliency_maps
from pdb_saliency.predict.outputs.postprocess import to_map, to_mask, to_overlay, to_source_size
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.video.frame import Frame
from pdb_saliency.video.mp4 import Mp4Writer
from pdb_saliency.video.source import open_source

CPU = torch.device("cpu")


@pytest.fixture
def fake(monkeypatch):
    """The command line with GreyModel: fake(*arguments) -> exit code."""
    monkeypatch.setattr("pdb_saliency.model.weights.load_model", lambda _: GreyModel())
    return lambda *arguments: cli.main(["predict", *map(str, arguments)])


def named(count):
    return [Frame(str(i), grey_frame(i)) for i in range(count)]


# Clips


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 10, 52])
def test_clips_are_filled_by_reflection(count):
    groups = list(clips(iter(named(count))))
    order = [int(frame.name) for clip in groups for frame in clip.frames]
    assert order == np.pad(np.arange(count), (0, -count % 5), mode="reflect").tolist()
    assert [clip.kept for clip in groups] == [5] * (count // 5) + [count % 5] * (count % 5 > 0)


def test_clips_of_nothing():
    assert list(clips([])) == []


def test_frames_before_a_bad_one_still_come_out():
    def stream():
        yield from named(7)
        raise InputError("frame 7")

    groups = []
    with pytest.raises(InputError, match="frame 7"):
        groups.extend(clips(stream()))
    assert [[int(f.name) for f in clip.frames] for clip in groups] == [[0, 1, 2, 3, 4], [5, 6, 5, 4, 3]]


# Saliency


def test_the_prediction_in_its_own_place_is_kept():
    kept = [round(float(saliency.mean()), 3) for _, saliency in saliency_maps(named(7), PositionModel(), CPU)]
    assert kept == [0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.2]


def test_saliency_keeps_its_place_size_and_value():
    step = np.zeros((90, 160, 3), np.uint8)
    step[:, 80:] = 200
    small = np.full((11, 7, 3), 51, np.uint8)
    (_, first), (_, second) = saliency_maps([Frame("a", step), Frame("b", small)], GreyModel(), CPU)
    assert first.shape == (90, 160) and first.dtype == np.float32 and second.shape == (11, 7)
    assert first[:, :76].max() < 1e-3 and np.allclose(first[:, 84:], 200 / 255, atol=1e-5)
    assert np.allclose(second, 0.2, atol=1e-5)


def test_map_mask_and_overlay():
    saliency = np.array([[0, 0.4199, 0.42, 1]], np.float32)
    assert to_map(saliency).tolist() == [[0, 107, 107, 255]]
    assert to_mask(saliency).tolist() == [[0, 0, 255, 255]]
    assert to_mask(saliency, 1).tolist() == [[0, 0, 0, 255]]
    picture = np.full((1, 4, 3), 100, np.uint8)
    tinted = to_overlay(picture, saliency)
    assert tinted[0, 0].tolist() == [100, 100, 100]
    assert (np.diff(tinted[0, :, 2].astype(int)) >= 0).all() and tinted[0, 3, 2] > 180 > 60 > tinted[0, 3, 0]


def test_resizing_never_leaves_the_range():
    saliency = np.random.default_rng(0).random((21, 33), np.float32).round()
    for size in ((1, 1), (480, 853), (10, 7)):
        resized = to_source_size(saliency.copy(), *size)
        assert resized.shape == size and 0 <= resized.min() and resized.max() <= 1


def test_a_model_that_fails_or_gives_nan_is_one_line():
    class Broken(GreyModel):
        def forward(self, clip):
            raise RuntimeError("out of memory\nmany\nlines")

    class Nan(GreyModel):
        def forward(self, clip):
            return super().forward(clip) * float("nan")

    with pytest.raises(
        SaliencyError, match="^the model failed at frame 0: not enough memory; .* need less \\(out of memory\\)$"
    ):
        list(saliency_maps(named(2), Broken(), CPU))

    class Huge(GreyModel):
        input_spec = dataclasses.replace(GreyModel.input_spec, height=1 << 14, width=1 << 40)

    with pytest.raises(SaliencyError, match="^the model failed at frame 0: not enough memory; .*Unable to allocate"):
        list(saliency_maps(named(2), Huge(), CPU))
    with pytest.raises(SaliencyError, match="not finite"):
        list(saliency_maps(named(2), Nan(), CPU))


@pytest.mark.parametrize(
    "name", ["cuda:99", "gpu", "", "meta", "cuda:99999999999999999999", "privateuseone", "mkldnn", "cpu\n"]
)
def test_bad_device_is_one_line(name):
    with pytest.raises(SaliencyError, match="cannot be used") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)


def test_auto_device():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# The main job


def test_folder_to_every_kind_of_result(tmp_path, fake, capsys):
    frames = write_frames(tmp_path / "in", [grey_frame(30 * i) for i in range(7)], ".bmp")
    out = tmp_path / "new" / "out"
    assert fake(frames, "-o", out, "--save", "maps,masks,overlay,video", "--threshold", 0.35) == 0
    names = [f"{i:05d}.png" for i in range(7)]
    assert read_maps(out / "maps") == {name: 30 * i for i, name in enumerate(names)}
    assert read_maps(out / "masks") == {name: 255 * (30 * i / 255 >= 0.35) for i, name in enumerate(names)}
    pictures = [cv2.imread(str(out / "overlay" / name)) for name in names]
    video, fps = read_video(out / "overlay.mp4")
    assert fps == 24 and len(video) == 7
    for picture, frame in zip(pictures, video):
        inside = np.s_[
            8:-8, 8:-8
        ]  # A yellow line of one pixel, here at the border, suffers from the codec's coarse colours.
        assert picture.shape == frame.shape and cv2.PSNR(picture[inside], frame[inside]) > 30
    assert sorted(path.name for path in out.iterdir()) == ["maps", "masks", "overlay", "overlay.mp4", "run.json"]
    captured = capsys.readouterr()
    assert captured.out.startswith("7 frames -> ") and str(out / "overlay.mp4") in captured.out
    assert captured.err.splitlines() == ["pdb-saliency: note: nothing here is trained"]


def test_maps_alone_are_the_default(tmp_path, fake):
    assert fake(write_frames(tmp_path / "in", [grey_frame(9)] * 2), "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["maps", "run.json"]


def test_video_keeps_its_rate_and_odd_size(tmp_path, fake):
    frames = [
        np.roll(np.tile(np.arange(0, 246, 6, dtype=np.uint8)[None, :, None], (31, 1, 3)), i, 1) for i in range(12)
    ]
    source = tmp_path / "clip.avi"
    encoder = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"FFV1"), 29.97, (41, 31))
    for frame in frames:
        encoder.write(frame)
    encoder.release()
    height, width = open_source(str(source)).__iter__().__next__().image.shape[:2]
    assert fake(source, "-o", tmp_path / "out", "--save", "maps,video") == 0
    assert list(read_maps(tmp_path / "out" / "maps", height, width)) == [f"{i:05d}.png" for i in range(12)]
    video, fps = read_video(tmp_path / "out" / "overlay.mp4")
    assert fps == pytest.approx(29.97, abs=0.01) and len(video) == 12
    assert video[0].shape == (height + height % 2, width + width % 2, 3)


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


def test_frames_of_several_sizes(tmp_path, fake):
    folder = write_frames(tmp_path / "in", [grey_frame(90), grey_frame(90, 100, 20), grey_frame(90, 10, 200)])
    assert fake(folder, "-o", tmp_path / "out", "--save", "maps,video") == 0
    shapes = [cv2.imread(str(path), 0).shape for path in sorted((tmp_path / "out" / "maps").iterdir())]
    assert shapes == [(48, 64), (100, 20), (10, 200)]
    video, _ = read_video(tmp_path / "out" / "overlay.mp4")
    assert [frame.shape for frame in video] == [(48, 64, 3)] * 3
    assert video[1][:, :20].max() < 30 < video[1][24, 32, 2], "tall: bars at the sides"
    assert video[2][:15].max() < 30 < video[2][24, 32, 2], "wide: bars above and below"


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
    """MPEG-4 takes fractions of integers up to 65535; OpenCV makes decimal ones."""
    assert rate_written(tmp_path, fps) == pytest.approx(fps, rel=1e-4, abs=5e-4)


def rate_written(tmp_path, fps):
    video = Mp4Writer(tmp_path / "rate.mp4", fps)
    video.write(grey_frame(1))
    video.finish()
    return read_video(tmp_path / "rate.mp4")[1]


# Memory


class GeneratedFilm:
    """Frames that exist only while they are looked at."""

    fps = 24.0
    files = ()
    remark = None

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            yield Frame(f"{i:05d}", grey_frame(i % 256, 240, 320))


def test_memory_does_not_grow_with_the_video(tmp_path):
    resident = []

    class Watched(ResultWriter):
        def write(self, frame, saliency):
            super().write(frame, saliency)
            if frame.name in ("00149", "00599"):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident.append(pages * resource.getpagesize())

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure resident memory")
    with Watched(tmp_path, ["maps", "video"], fps=24.0) as writer:
        run(GeneratedFilm(600), Engine(GreyModel(), CPU), writer)
    maps = 450 * 240 * 320  # Bytes of the maps between the two samples; the frames have three times as many.
    assert resident[1] - resident[0] < maps / 3
    assert writer.frames == 600
