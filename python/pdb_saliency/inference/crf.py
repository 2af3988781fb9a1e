"""Saliency refined by a fully connected CRF (Krähenbühl and Koltun, NIPS 2011): the paper's "Ours+", §4.2."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from pdb_saliency.errors import SaliencyError
from pdb_saliency.runtime.processes import ProcessPool, ctrl_c_held
from pdb_saliency.video.frame import Frame

# From the authors' script (the paper gives none); distances in pixels, colours in 0..255.
ITERATIONS = 5
SMOOTHNESS = {"sxy": 3, "compat": 3}
APPEARANCE = {"sxy": 60, "srgb": 5, "compat": 5}
SMALLEST = 1e-5  # Probabilities of 0 would rule out a label for good.


def require() -> ModuleType:
    """The CRF library. Raises SaliencyError if it is not installed."""
    try:
        import pydensecrf.densecrf
    except ImportError as error:
        raise SaliencyError("the CRF needs pydensecrf2: pip install 'pdb-ext[crf]'") from error
    return pydensecrf.densecrf


def refine(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Probability of the object after mean-field inference, float32 (H, W) in [0, 1].

    image: uint8 (H, W, 3), BGR. saliency: float32 (H, W) in [0, 1], the unary term; 1 - saliency is the background's.
    Raises ValueError for other shapes or dtypes, SaliencyError without the library.

    The saliency is taken as a probability, as in §4.2. The authors' script first stretches it to its own minimum and
    maximum, which finds an object in every frame. Here an object whose saliency is below a half everywhere vanishes.
    The result is close to a segmentation: nearly all pixels come out near 0 or 1, so the threshold of a mask hardly
    matters.
    """
    if image.dtype != np.uint8 or image.shape != (*saliency.shape, 3):
        raise ValueError(f"image must be uint8 {(*saliency.shape, 3)}, got {image.dtype} {image.shape}")
    height, width = saliency.shape
    field = require().DenseCRF2D(width, height, 2)
    object_ = np.clip(saliency.astype(np.float32), SMALLEST, 1 - SMALLEST)
    field.setUnaryEnergy(-np.log(np.stack([1 - object_, object_])).reshape(2, -1))
    field.addPairwiseGaussian(**SMOOTHNESS)
    # The order of the channels makes no difference.
    field.addPairwiseBilateral(rgbim=np.ascontiguousarray(image), **APPEARANCE)
    return np.asarray(field.inference(ITERATIONS), np.float32).reshape(2, height, width)[1]


class Writer(Protocol):
    """Where results go: see ResultWriter."""

    out: Path
    frames: int

    def write(self, frame: Frame, saliency: np.ndarray) -> None: ...
    def finish(self) -> None: ...


class RefiningWriter:
    """Refines saliency in `workers` processes on its way to `writer`, which receives it in the order of the frames.

    Holds at most 2 * workers + 1 frames. The processes start with the first frame. Use as a context manager.
    Raises SaliencyError at once without the library, later if a process is killed, and whatever `writer` raises.
    """

    def __init__(self, writer: Writer, workers: int):
        require()
        self._writer = writer
        self._workers = workers
        self._pool: ProcessPool | None = None
        self._pending: deque[tuple[Frame, Future | np.ndarray]] = deque()

    @property
    def out(self) -> Path:
        return self._writer.out

    @property
    def frames(self) -> int:
        """The number of frames written so far."""
        return self._writer.frames

    def write(self, frame: Frame, saliency: np.ndarray) -> None:
        """saliency: float32 (H, W) in [0, 1], the size of the frame. Maps of an earlier run are refined already."""
        refined = self._submit(frame.image, saliency) if frame.known is None else saliency
        self._pending.append((frame, refined))
        if len(self._pending) > 2 * self._workers:
            self._pass_on()

    def finish(self) -> None:
        while self._pending:
            self._pass_on()
        self._writer.finish()

    def __enter__(self) -> RefiningWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool:
            with ctrl_c_held():
                self._pool.kill()

    def _submit(self, image: np.ndarray, saliency: np.ndarray) -> Future:
        if self._pool is None:
            self._pool = ProcessPool(self._workers)
        try:
            with ctrl_c_held():  # Processes start here; they must never see a Ctrl-C.
                return self._pool.submit(refine, image, saliency)
        except BrokenProcessPool as error:
            raise _killed() from error

    def _pass_on(self) -> None:
        # It stays pending until the result is there, so that a second Ctrl-C loses nothing.
        frame, saliency = self._pending[0]
        try:
            if isinstance(saliency, Future):
                saliency = saliency.result()
        except BrokenProcessPool as error:
            raise _killed() from error
        self._pending.popleft()
        self._writer.write(frame, saliency)


def _killed() -> SaliencyError:
    return SaliencyError("a CRF process was killed (no memory left?); fewer --crf-workers need less")
