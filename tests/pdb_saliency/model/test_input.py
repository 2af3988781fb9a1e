"""What the network's input must look like."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from helpers.paths import shared_path
from pdb_saliency import InputError, InputSpec
from pdb_saliency.model.config import RELEASED


def test_prepare_equals_the_authors_data_layer_bit_for_bit():
    fixture = np.load(shared_path("fixtures/caffe/thin_outputs.npz"))
    spec = dataclasses.replace(RELEASED, input_size=(89, 89)).input_spec
    folder = shared_path("data/davis_dev/JPEGImages/blackswan")
    frames = [cv2.imread(str(folder / f"{number:05d}.jpg")) for number in range(5)]
    clip = spec.prepare(frames)
    assert clip.dtype == torch.float32
    np.testing.assert_array_equal(clip.numpy(), fixture["data"])


def test_prepare_orders_and_normalises_channels():
    blue = np.zeros((4, 6, 3), np.uint8)
    blue[..., 0] = 200
    spec = InputSpec(2, 3, bgr=False, mean=(1, 2, 3), std=(2, 4, 8))
    clip = spec.prepare([blue, blue[:1, :1]])
    assert clip.shape == (2, 3, 2, 3)
    for channel, value in enumerate(((0 - 1) / 2, (0 - 2) / 4, (200 - 3) / 8)):
        assert torch.all(clip[:, channel] == value)
    bgr = dataclasses.replace(spec, bgr=True).prepare([blue])
    assert torch.all(bgr[:, 0] == (200 - 1) / 2)
    assert spec.prepare([]).shape == (0, 3, 2, 3)


def test_an_input_in_the_frames_shape():
    square = InputSpec(185, 321, bgr=False, mean=(0, 0, 0), std=(1, 1, 1))
    assert square.fitted(1080, 607) is square
    spec = dataclasses.replace(square, keep_aspect=True)
    assert (spec.fitted(720, 1280).height, spec.fitted(720, 1280).width) == (185, 321)
    for height, width in [(480, 854), (1, 1), (640, 480), (2160, 3840), (1920, 1080), (300, 1199), (9, 7)]:
        fitted = spec.fitted(height, width)
        assert fitted.height % 8 == fitted.width % 8 == 1
        assert fitted.height * fitted.width == pytest.approx(185 * 321, rel=0.06)
        assert fitted.width / fitted.height == pytest.approx(width / height, rel=0.06)
        assert dataclasses.replace(fitted, height=185, width=321) == spec
    for shape in ((1, 4000), (4000, 1)):  # Treated as 4:1.
        fitted = spec.fitted(*shape)
        assert max(fitted.height, fitted.width) / min(fitted.height, fitted.width) == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3)), np.zeros((0, 6, 3), np.uint8)],
    ids=lambda frame: f"{frame.dtype}{frame.shape}",
)
def test_a_wrong_frame_is_named(frame):
    with pytest.raises(InputError, match=r"uint8 array \(H, W, 3\), got \w+ \("):
        InputSpec(2, 3, bgr=False, mean=(0, 0, 0), std=(1, 1, 1)).prepare([frame])
