"""The Python API: load, stream, and arrays."""

import itertools
import queue
import threading

import cv2
import numpy as np
import pytest
import torch

import pdb_saliency as ps
from helpers.fake_model import GreyModel
from helpers.films import grey_frame, write_frames, write_video

SHADES = [20, 90, 160, 230, 40, 110, 180]


@pytest.fixture
def model():
    return ps.Predictor(GreyModel())


def colourful(red, green, blue):
    return np.tile(np.array([red, green, blue], np.uint8), (48, 64, 1))


def test_three_lines(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [grey_frame(shade) for shade in SHADES])
    model = ps.load()
    results = list(model.stream(path))
    assert len(results) == 7 and model.untrained is None and isinstance(model.model, ps.SaliencyModel)
    for frame, saliency in results:
        assert (frame.dtype, frame.shape) == (np.uint8, (48, 64, 3))
        assert (saliency.dtype, saliency.shape) == (np.float32, (48, 64)) and 0 <= saliency.min() <= saliency.max() <= 1


def test_what_a_file_holds_arrives_as_rgb(tmp_path, model):
    write_frames(tmp_path, [colourful(10, 20, 30)[..., ::-1]])
    ((frame, saliency),) = model.stream(str(tmp_path))
    assert frame[0, 0].tolist() == [10, 20, 30] and saliency.mean() == pytest.approx(20 / 255, abs=1e-5)
    ((frame, saliency),) = model.stream(tmp_path, output="torch")
    assert isinstance(frame, torch.Tensor) and isinstance(saliency, torch.Tensor) and saliency.dtype == torch.float32


def test_the_network_gets_the_colours_in_its_own_order():
    class Red(GreyModel):
        def forward(self, clip):
            return torch.logit(clip[:, :, 2:3])  # BGR

    ((_, saliency),) = ps.Predictor(Red()).stream([colourful(200, 0, 50)])
    assert saliency.mean() == pytest.approx(200 / 255, abs=1e-5)


@pytest.mark.parametrize("kind", [list, iter, lambda frames: (frame for frame in frames), np.stack])
def test_any_iterable_of_arrays(model, kind):
    frames = [grey_frame(shade) for shade in SHADES]
    results = list(model.stream(kind(frames)))
    assert [round(255 * float(saliency.mean())) for _, saliency in results] == SHADES
    assert all(np.array_equal(given, frame) for given, (frame, _) in zip(frames, results))


@pytest.mark.parametrize("output", [None, "numpy", "torch"])
def test_tensors_in_either_out(model, output):
    frames = [torch.from_numpy(grey_frame(shade)) for shade in SHADES]
    results = list(model.stream(frames, output=output))
    for given, (frame, saliency) in zip(frames, results):
        assert isinstance(saliency, np.ndarray if output == "numpy" else torch.Tensor)
        assert type(frame) is type(saliency) and np.array_equal(frame, given)
    assert [round(255 * float(saliency.mean())) for _, saliency in results] == SHADES


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_a_reader_that_uses_one_buffer_for_all_frames(model, convert):
    def read():
        buffer = grey_frame(0)
        for shade in SHADES:
            buffer[:] = shade
            yield convert(buffer)

    results = [(int(frame[0, 0, 0]), round(255 * float(saliency.mean()))) for frame, saliency in model.stream(read())]
    assert results == [(shade, shade) for shade in SHADES]


def test_frames_of_several_sizes_and_not_contiguous(model):
    frames = [grey_frame(50), grey_frame(60, 31, 17), grey_frame(70, 96, 128)[::2, ::2], grey_frame(80)[:, ::-1]]
    for frame, saliency in model.stream(frames):
        assert saliency.shape == frame.shape[:2] and saliency.mean() == pytest.approx(frame.mean() / 255, abs=1e-5)


def test_whole_arrays(model):
    video = np.stack([grey_frame(shade) for shade in SHADES])
    saliency = model(video)
    assert saliency.shape == (7, 48, 64) and saliency.dtype == np.float32
    as_tensor = model(torch.from_numpy(video))
    assert isinstance(as_tensor, torch.Tensor) and np.array_equal(as_tensor.numpy(), saliency)
    with pytest.raises(ValueError, match="at least one frame"):
        model(video[:0])


def test_an_endless_source_ends_with_the_iterator(model):
    closed = threading.Event()

    def camera():
        try:
            for index in itertools.count():
                yield grey_frame(index % 256)
        finally:
            closed.set()

    stream = model.stream(camera())
    assert [round(255 * float(saliency.mean())) for _, saliency in itertools.islice(stream, 12)] == list(range(12))
    stream.close()
    assert closed.wait(5)


def test_causal_needs_no_later_frame():
    """A source that sends the next frame only when the previous frame's map has arrived."""
    model = ps.load(causal=True)
    maps: queue.Queue = queue.Queue()

    def camera():
        for index in range(3):
            yield np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
            maps.get(timeout=60)

    count = 0
    for _, saliency in model.stream(camera()):
        maps.put(saliency)
        count += 1
    assert count == 3


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((48, 64)),
        np.zeros((48, 64, 4), np.uint8),
        np.zeros((48, 64, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_a_wrong_frame_is_named_after_the_maps_before_it(model, bad):
    seen = []
    with pytest.raises(ps.InputError, match=r"frame 6: .*uint8 array \(H, W, 3\), got " + str(bad.dtype)):
        for _, saliency in model.stream([grey_frame(1)] * 6 + [bad]):
            seen.append(saliency)
    assert len(seen) == 6


def test_an_exception_of_the_source_is_the_callers(model):
    def camera():
        yield grey_frame(1)
        raise ConnectionError("cable")

    with pytest.raises(ConnectionError, match="cable"):
        list(model.stream(camera()))


def test_wrong_calls_are_named(model, tmp_path):
    with pytest.raises(TypeError, match="path or an iterable of frames, got int"):
        model.stream(3)
    with pytest.raises(TypeError, match="path or an iterable of frames, got bytes"):
        model.stream(b"clip.mp4")
    with pytest.raises(ValueError, match=r"one size, got \(48, 64\) and \(20, 33\)"):
        model([grey_frame(1), np.zeros((20, 33, 3), np.uint8)])
    with pytest.raises(ValueError, match="output must be None, 'numpy' or 'torch', got 'jax'"):
        model.stream([], output="jax")
    with pytest.raises(ps.InputError, match="absent"):
        model.stream(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="clip_length"):
        ps.load(clip_length=0)
    with pytest.raises(ps.SaliencyError, match="device 'gpu'"):
        ps.load(device="gpu")
    with pytest.raises(ps.WeightsError, match="absent.pth"):
        ps.load("absent.pth")


def test_maps_of_predict_and_of_the_api_agree(tmp_path):
    from pdb_saliency import cli

    folder = write_frames(
        tmp_path / "in", [np.random.default_rng(i).integers(0, 256, (50, 60, 3), np.uint8) for i in range(6)]
    )
    assert cli.main(["predict", str(folder), "-o", str(tmp_path / "out"), "--overlap", "2"]) == 0
    for index, (_, saliency) in enumerate(ps.load(overlap=2).stream(folder)):
        written = cv2.imread(str(tmp_path / "out" / "maps" / f"{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.abs(written - 255 * saliency).max() <= 0.5 + 1e-3
