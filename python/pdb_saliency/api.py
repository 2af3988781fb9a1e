"""The Python API: saliency in three lines::

import pdb_saliency as ps
model = ps.load()
for frame, saliency in model.stream("clip.mp4"):   # (H, W, 3) uint8 RGB, (H, W) float32 in [0, 1]
    ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pdb_saliency.inference.devices import resolve_device
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.weights import load_model
from pdb_saliency.video.frame import Frame
from pdb_saliency.video.source import open_source

from .options import EngineOptions

Array = np.ndarray | Tensor
_OUTPUTS = ("numpy", "torch")


def load(weights: str | Path | None = None, device: str = "auto", **options: Any) -> Predictor:
    """A saliency model, ready for frames.

    weights: as for `load_model`: a name, a file, or None for the model that comes with the package. device: "auto"
    (CUDA if available, else the CPU), "cpu", "cuda:1", ... options: the fields of `EngineOptions`: clip_length,
    overlap, causal, batch, precision, compile.

    Raises WeightsError; SaliencyError for a device that cannot be used; ValueError or TypeError for wrong options.
    """
    engine_options = EngineOptions(**options)
    return Predictor(load_model(weights), resolve_device(device), engine_options)


class Predictor:
    """A model and the engine that runs it. `load` creates one; Predictor(my_model) wraps your own SaliencyModel.

    Attributes: model (the SaliencyModel, as given); engine; untrained (which parts of the model have random weights, in
    words, or None). Use it in one thread at a time.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu", options: EngineOptions = EngineOptions()):
        self.model = model
        self.engine = Engine(model, torch.device(device), options)
        self.untrained: str | None = model.untrained

    def stream(
        self, source: str | PathLike[str] | Iterable[Array], *, output: str | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """Yields each frame with its saliency: (H, W, 3) uint8 RGB, and (H, W) float32 in [0, 1].

        source: a video file, a folder of pictures or a glob; or any iterable of frames, (H, W, 3) uint8 RGB, as numpy
        arrays or as tensors on any device: a list, a generator, a camera's reader. It is read in its own thread, a few
        frames ahead. It may be endless; reading stops when the iterator is closed. Frames are copied, so that a reader
        may use one buffer for all of them.
        output: "numpy" or "torch" (on the CPU) for frame and saliency; None: the type of the source's frames, numpy for
        files.

        A map is ready when the last frame of its clip has been read; with `load(causal=True)`, when its own frame has.
        Memory does not grow with the video.
        Raises InputError for a frame that cannot be read, after all frames before it; SaliencyError if the network
        fails; TypeError or ValueError for wrong arguments.
        """
        if output not in (None, *_OUTPUTS):
            raise ValueError(f"output must be None, {' or '.join(map(repr, _OUTPUTS))}, got {output!r}")
        if isinstance(source, (str, PathLike)):
            return self._of_files(open_source(str(source)), output)
        if isinstance(source, bytes) or not isinstance(source, Iterable):
            raise TypeError(f"source must be a path or an iterable of frames, got {type(source).__name__}")
        return self._of_arrays(source, output)

    def __call__(self, frames: Array | Iterable[Array]) -> Array:
        """Saliency (T, H, W), float32 in [0, 1], of a whole video in memory: frames (T, H, W, 3) uint8 RGB, or a list.

        Returns a tensor for tensors, else an array. All frames must have the same size (`stream` accepts any).
        Raises InputError for frames of another shape or dtype, ValueError for T = 0 and for sizes that differ.
        """
        maps = [saliency for _, saliency in self.stream(frames)]
        if not maps:
            raise ValueError("frames must hold at least one frame, got none")
        if sizes := {tuple(map_.shape) for map_ in maps} - {tuple(maps[0].shape)}:
            raise ValueError(
                f"frames must have one size, got {tuple(maps[0].shape)} and {sizes.pop()}; `stream` accepts any"
            )
        return torch.stack(maps) if isinstance(maps[0], Tensor) else np.stack(maps)

    def _of_files(self, source: Iterable[Frame], output: str | None) -> Iterator[tuple[Array, Array]]:
        for frame, saliency in self.engine.maps(source):
            image = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB)
            yield _as(image, output == "torch"), _as(saliency, output == "torch")

    def _of_arrays(self, arrays: Iterable[Array], output: str | None) -> Iterator[tuple[Array, Array]]:
        given: deque[Array] = deque()  # filled by the reading thread, emptied here

        def frames() -> Iterator[Frame]:
            for index, array in enumerate(arrays):
                frame = Frame(str(index), _to_bgr(array))
                given.append(_copy(array))
                yield frame

        for _, saliency in self.engine.maps(frames()):
            array = given.popleft()
            as_tensor = isinstance(array, Tensor) if output is None else output == "torch"
            yield _as(array, as_tensor), _as(saliency, as_tensor)


def _to_bgr(array: Array) -> np.ndarray:
    image = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)  # many times faster than image[:, :, ::-1]
    return image  # The engine refuses it, with a message that says what it got.


def _copy(array: Array) -> Array:
    return array.detach().clone() if isinstance(array, Tensor) else np.array(array)


def _as(array: Array, as_tensor: bool) -> Array:
    if as_tensor:
        return array if isinstance(array, Tensor) else torch.from_numpy(array)
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array
