"""The inference engine: a stream of frames in, a stream of saliency maps out, as fast as the device allows.

Decoding and resizing, the network, and the reader of the maps run at the same time, each in its own thread. The
spatial part of the network, which is nearly all of its cost, sees every frame once, even where clips overlap.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pdb_saliency.errors import InputError, SaliencyError, one_line
from pdb_saliency.model.input import check_frame
from pdb_saliency.options import EngineOptions
from pdb_saliency.runtime.isolation import isolate_compiler
from pdb_saliency.video.frame import Frame

from .clips import Clip, batches, blended
from .devices import move
from .optimise import can_fuse, fold_batch_norm, fuse
from .pipeline import Landing, Pipeline

_log = logging.getLogger(__name__)

_GPU_BATCH = 16
_DEPTH = 2  # Items between two stages; more would only hold more memory.
_FAILURES = (RuntimeError, MemoryError, cv2.error)  # cv2.error: no memory for the resized frame.


@dataclass(frozen=True)
class Encoded:
    """The spatial part's tensors (1, ...) for one frame, and the size (height, width) at which the network sees it."""

    parts: tuple[Tensor, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class _Item:
    """What a clip needs of a frame.

    known: whether an earlier run left its map. encoded: the encoded frame, or the resized picture if its map is known.
    """

    name: str
    known: bool
    encoded: Encoded | np.ndarray


class Engine:
    """A copy of a model, made fast for inference on one device, and the stream through it.

    model: a SaliencyModel, which stays as it is. device: where to run. options: see `EngineOptions`.
    Its maps equal the model's up to rounding: batch normalisation is folded into the convolutions, which on CPUs also
    apply the activations (`optimise`); on GPUs the network runs in `options.precision`, channels last.
    Raises SaliencyError when the model does not fit on the device.
    """

    def __init__(self, model: nn.Module, device: torch.device, options: EngineOptions = EngineOptions()):
        self.device, self.options = device, options
        self.input_spec, self.output_spec = model.input_spec, model.output_spec
        self.dtype = _dtype(options.precision, device)
        self.network = _prepare(model, device, self.dtype)
        self.batch = options.batch or (1 if options.causal or device.type == "cpu" else _GPU_BATCH)
        self._threads = torch.get_num_threads()
        self._encode = _compiled(self.network.encode) if options.compile else self.network.encode

    def maps(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, np.ndarray]]:
        """Yields each frame with its saliency, float32 (H, W) in [0, 1] at the frame's size. Memory stays bounded.

        A model that keeps the aspect ratio takes it from the first frame. A map comes when its clip is complete, or at
        once if `options.causal`. Closing the iterator ends all threads.
        Frames that already have a map (`Frame.known`) are computed only if other frames need them: in a clip that also
        has frames without a map, or for the state if `options.causal`.
        Raises InputError where the frames do, after the maps of all frames before; SaliencyError if the network fails.
        """
        with Pipeline() as pipeline:
            resized = pipeline.ahead(self._resized(frames), max(_DEPTH, self.batch), may_hang=True)
            for frame, small in pipeline.ahead(self._landing(self._network_stage(resized)), _DEPTH * self.batch):
                if frame.known is not None:
                    yield frame, frame.known / np.float32(255)
                else:
                    yield frame, self.output_spec(self._to_numpy(small, frame), frame.image)

    def _resized(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, np.ndarray]]:
        spec = None
        for frame in frames:
            try:
                check_frame(frame.image)
                spec = spec or self.input_spec.fitted(*frame.image.shape[:2])
                resized = spec.resize(frame.image)
            except InputError as error:
                raise InputError(f"frame {frame.name}: {error}") from error
            except _FAILURES as error:
                raise _failure(error, frame) from error
            yield frame, resized

    def _landing(self, maps: Iterable[tuple[Frame, Tensor]]) -> Iterator[tuple[Frame, Landing]]:
        """Starts the transfer of each map as soon as its clip is launched, so that it need not wait for later clips."""
        for frame, small in maps:
            try:
                landing = Landing.of(small.float())
            except _FAILURES as error:
                raise _failure(error, frame) from error
            yield frame, landing

    def _network_stage(self, resized: Iterable[tuple[Frame, np.ndarray]]) -> Iterator[tuple[Frame, Tensor]]:
        torch.set_num_threads(self._threads)  # A new thread starts with PyTorch's default.
        return self._causal(resized) if self.options.causal else self._in_clips(resized)

    def _in_clips(self, resized: Iterable[tuple[Frame, np.ndarray]]) -> Iterator[tuple[Frame, Tensor]]:
        # Clips live longer than their frames, so they must not hold the pictures: 100 megapixels each fill the memory.
        pairs = self._encoded(resized)
        items = ((frame, _Item(frame.name, frame.known is not None, encoded)) for frame, encoded in pairs)

        def clip_maps(clip: Clip[_Item]) -> Tensor | list[Tensor]:
            if all(item.known for item in clip.frames[: clip.kept]):
                return [torch.zeros(())] * len(clip.frames)  # They are not used.
            try:
                encoded = [item.encoded for item in clip.frames]
                return self.saliency([e if isinstance(e, Encoded) else self.encode([e])[0] for e in encoded])
            except _FAILURES as error:
                raise _failure(error, clip.frames[0]) from error

        return blended(items, clip_maps, self.options.clip_length, self.options.overlap)

    def _causal(self, resized: Iterable[tuple[Frame, np.ndarray]]) -> Iterator[tuple[Frame, Tensor]]:
        state = None
        for frame, encoded in self._encoded(resized):
            try:
                small, state = self.step(encoded, state)
            except _FAILURES as error:
                raise _failure(error, frame) from error
            yield frame, small

    def _encoded(self, resized: Iterable[tuple[Frame, np.ndarray]]) -> Iterator[tuple[Frame, Encoded | np.ndarray]]:
        """Encodes frames in batches; in clips, frames whose maps are known stay as they are, resized."""
        for group in batches(resized, self.batch):
            if not self.options.causal and all(frame.known is not None for frame, _ in group):
                yield from group
                continue
            try:
                encoded = self.encode([image for _, image in group])
            except _FAILURES as error:
                raise _failure(error, group[0][0]) from error
            yield from zip((frame for frame, _ in group), encoded)

    @torch.inference_mode()
    def encode(self, resized: list[np.ndarray]) -> list[Encoded]:
        """The spatial part's result for each frame. resized: uint8 (height, width, 3), from `InputSpec.resize`."""
        # Compiling takes minutes for each number of frames, so a shorter batch is filled up.
        filler = resized[-1:] * (self.batch - len(resized)) if self.options.compile else []
        parts = self._encode(self._upload([*resized, *filler]))
        size = resized[0].shape[:2]
        return [Encoded(tuple(part[index : index + 1] for part in parts), size) for index in range(len(resized))]

    @torch.inference_mode()
    def saliency(self, clip: list[Encoded]) -> Tensor:
        """A clip's maps from its encoded frames: float32 (T, height, width) in [0, 1], at the network's size."""
        return self.network.saliency(joined(clip), (1, len(clip)), clip[0].size)[0]

    @torch.inference_mode()
    def step(self, encoded: Encoded, state: Any) -> tuple[Tensor, Any]:
        """The causal saliency, float32 (height, width), of the next frame after `state`; and the new state."""
        saliency, state = self.network.step(encoded.parts, state, encoded.size)
        return saliency[0], state

    def _to_numpy(self, landing: Landing, frame: Frame) -> np.ndarray:
        try:
            saliency = landing.wait().numpy()
        except RuntimeError as error:  # A GPU reports here what failed earlier.
            raise _failure(error, frame) from error
        if not np.isfinite(saliency).all():
            hint = "; try bfloat16 or float32" if self.dtype == torch.float16 else ""
            raise SaliencyError(
                f"the model gave values that are not finite at frame {frame.name} in {_name(self.dtype)}{hint}"
            )
        return saliency

    def _upload(self, resized: list[np.ndarray]) -> Tensor:
        images = torch.from_numpy(np.stack(resized))
        if self.device.type == "cuda":
            images = images.pin_memory().to(self.device, non_blocking=True)
        return self.input_spec.normalise(images.to(self.device)).to(self.dtype)


def joined(clip: list[Encoded]) -> tuple[Tensor, ...]:
    """The parts of all frames, (T, ...)."""
    return tuple(map(torch.cat, zip(*(encoded.parts for encoded in clip))))


def _prepare(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    network = fold_batch_norm(copy.deepcopy(model).eval().requires_grad_(False)).to(dtype)
    if can_fuse(device, dtype):
        return fuse(network)
    return move(network, device).to(memory_format=torch.channels_last)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    return getattr(torch, precision)


def _compiled(function):
    """`torch.compile`d, until that fails for the first time."""
    compiled = torch.compile(function, dynamic=False)
    works = True

    def call(frames: Tensor):
        nonlocal works
        if works:
            try:
                isolate_compiler()
                return compiled(frames)
            except Exception as error:  # A compiler that is missing or broken fails in many ways.
                works = False
                _log.warning("torch.compile failed, the network runs without it (%s)", one_line(error, name=False))
        return function(frames)

    return call


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _failure(error: BaseException, at: Frame | _Item) -> SaliencyError:
    line = one_line(error, name=False)
    # Not every mention of memory: an illegal access is something else.
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or re.search("out of memory|allocate", line):
        line = f"not enough memory; shorter clips and smaller batches need less ({line})"
    return SaliencyError(f"the model failed at frame {at.name}: {line}")


def authors_engine(model: nn.Module, device: torch.device) -> Engine:
    """An engine that runs as the authors' code does: clips of five frames, float32 on every device."""
    return Engine(model, device, EngineOptions(precision="float32"))


def saliency_maps(
    frames: Iterable[Frame], model: nn.Module, device: torch.device
) -> Iterator[tuple[Frame, np.ndarray]]:
    """`Engine.maps` of `authors_engine`; for many videos, make that engine once. model: a SaliencyModel."""
    return authors_engine(model, device).maps(frames)
