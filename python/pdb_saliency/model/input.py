"""From decoded video frames to the tensor that a network expects."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from pdb_saliency.errors import InputError

_LONGEST = 4.0  # Aspect ratios beyond 4:1 become 4:1; otherwise the shorter side would have too few features.


@dataclass(frozen=True)
class InputSpec:
    """Size and colour normalisation of a network's input.

    height, width: network input size in pixels. Frames are resized to it regardless of their aspect ratio, as the
        authors did, unless `keep_aspect`.
    bgr: the channel order that the network was trained with; False means RGB.
    mean, std: three floats each, in that channel order, in units of 0-255.
    keep_aspect: every video gets its own size, see `fitted`.
    """

    height: int
    width: int
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep_aspect: bool = False

    def fitted(self, height: int, width: int) -> InputSpec:
        """The spec for a video of frames height x width.

        With `keep_aspect` it has the shape of the frames and about as many pixels as this one, with sides of the form
        8k + 1 (see `ModelConfig.input_size`); without, it is this one.
        """
        if not self.keep_aspect:
            return self
        ratio = min(max(width / height, 1 / _LONGEST), _LONGEST)
        sides = (math.sqrt(self.height * self.width * factor) for factor in (1 / ratio, ratio))
        height, width = (8 * max(round((side - 1) / 8), 1) + 1 for side in sides)
        return dataclasses.replace(self, height=height, width=width)

    def prepare(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Resize and normalise decoded frames.

        frames: uint8 arrays (H, W, 3) in BGR order, as OpenCV decodes them; their sizes may differ.
        Returns float32 (T, 3, height, width).
        Raises InputError for an array of another dtype or shape, or without pixels.

        The resize is bilinear on uint8 with half-pixel centres and no antialiasing: exactly what the released model was
        trained with (Caffe's ImageData layer calls cv::resize before it subtracts the mean).
        """
        clip = np.empty((len(frames), 3, self.height, self.width), np.float32)
        # (x - mean) first and the division after it, so that std = 1 reproduces Caffe's subtraction bit for bit.
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        for target, frame in zip(clip, frames):
            check_frame(frame)
            resized = cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
            # Plane by plane: numpy is slow at separating interleaved channels.
            planes = cv2.split(resized)
            for plane, out, mean_value, std_value in zip(planes if self.bgr else planes[::-1], target, mean, std):
                np.subtract(plane, mean_value, out=out, dtype=np.float32)
                np.divide(out, std_value, out=out, dtype=np.float32)
        return torch.from_numpy(clip)

    def resize(self, frame: np.ndarray) -> np.ndarray:
        """The first half of `prepare`, for one frame: uint8 (height, width, 3), BGR. Raises InputError as `prepare`."""
        check_frame(frame)
        resized = np.empty((self.height, self.width, 3), np.uint8)
        return cv2.resize(frame, (self.width, self.height), dst=resized, interpolation=cv2.INTER_LINEAR)

    def normalise(self, resized: Tensor) -> Tensor:
        """The second half, on any device: uint8 (T, height, width, 3) to float32 (T, 3, height, width), channels last.

        On CPUs and GPUs alike the result is bit for bit that of `prepare`.
        """
        images = (resized if self.bgr else resized.flip(-1)).float()
        mean, std = (_on_device(tuple(values), resized.device) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std).permute(0, 3, 1, 2)


@functools.cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as float32. Cached, because an upload from ordinary memory waits for all earlier work of the GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def check_frame(frame: np.ndarray) -> None:
    """Raises InputError unless frame is uint8 (H, W, 3) with pixels."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise InputError(f"a frame must be a uint8 array (H, W, 3), got {frame.dtype} {tuple(frame.shape)}")
