"""How long each stage of `predict` takes, beside the floor: the network's convolutions alone.

The stages are measured one after the other, in rounds, so that other work on the machine affects all of them. A ratio
is the median of the ratios within rounds.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference.engine import Engine, joined
from pdb_saliency.model.config import NETWORKS
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.predict.job import run
from pdb_saliency.predict.outputs.result import to_map
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.video.frame import Frame, Source
from pdb_saliency.video.pictures import write_picture

from .floor import convolutions_alone

# Largest relative RMS difference of the engine's maps from the plain float32 model's.
_LIMITS = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}

_log = logging.getLogger(__name__)


@dataclass
class Timings:
    """seconds: per frame, for each stage one value per round. frames: of an end-to-end run.

    difference: relative RMS difference of the engine's maps from the model's. floor_gmac: multiplications (1e9) of the
    convolutions, per frame.
    """

    difference: float
    floor_gmac: float
    frames: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, stage: str) -> float:
        return statistics.median(self.seconds[stage])

    def ratio(self, stage: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(self.seconds[stage], self.seconds[to]))


class FirstFrames:
    """The first `count` frames of a source."""

    remark = None

    def __init__(self, source: Source, count: int):
        self._source, self.count = source, count
        self.fps, self.files = source.fps, source.files

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._source, self.count)


def random_model(architecture: str) -> SaliencyModel:
    """A network with random weights. architecture: one of options.NETWORKS."""
    _log.warning("random weights: the speed is that of a trained model, the maps mean nothing")
    return SaliencyModel(NETWORKS[architecture]).eval()


def measure(model: SaliencyModel, engine: Engine, source: Source, frames: int, seconds: float) -> Timings:
    """Check the engine's maps of the first clip against the model's, then time rounds for `seconds`, three at least.

    frames: how many frames of the source an end-to-end run takes.
    Raises SaliencyError when the maps differ or the source has no whole clip; InputError.
    """
    length = engine.options.clip_length
    clip = list(islice(source, length))
    if len(clip) < length:
        raise SaliencyError(f"the source must have at least {length} frames, a clip, got {len(clip)}")
    difference = _check(model, engine, clip)
    spec = engine.input_spec.fitted(*clip[0].image.shape[:2])
    floor, gmac = convolutions_alone(model, engine, (spec.height, spec.width), length)
    with tempfile.TemporaryDirectory() as folder:
        stages = _ClipStages(engine, clip, Path(folder)).stages(FirstFrames(source, frames), floor)
        timings = Timings(difference, gmac, frames, {name: [] for name in stages})
        for stage in stages.values():  # Allocates memory, chooses kernels, fills caches.
            stage.run()
        start = time.perf_counter()
        while len(timings.seconds["end to end"]) < 3 or time.perf_counter() - start < seconds:
            for name, stage in stages.items():
                timings.seconds[name].append(stage.run(engine.device) / stage.frames)
    return timings


def largest_difference(engine: Engine) -> float:
    """The relative RMS difference from the plain float32 model's maps that the engine's precision allows."""
    tf32 = engine.device.type == "cuda" and torch.backends.cudnn.allow_tf32  # PyTorch's default; float16's mantissa.
    return _LIMITS[torch.float16 if tf32 and engine.dtype == torch.float32 else engine.dtype]


def _check(model: SaliencyModel, engine: Engine, clip: list[Frame]) -> float:
    """The relative RMS difference. Raises SaliencyError if it is above `largest_difference`."""
    spec = engine.input_spec.fitted(*clip[0].image.shape[:2])
    batch = spec.prepare([frame.image for frame in clip])[None]
    with torch.inference_mode():
        exact = model(batch)[0, :, 0].sigmoid().double()
    ours = engine.saliency(engine.encode([spec.resize(frame.image) for frame in clip])).cpu().double()
    difference = float((ours - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    limit = largest_difference(engine)
    if not difference <= limit:
        raise SaliencyError(f"the engine's maps differ from the model's by {difference:.2g}, allowed {limit:.2g}")
    return difference


@dataclass(frozen=True)
class _Stage:
    """call: what is timed; it receives what `prepare` returned just before. frames: how many it processes."""

    call: Callable[..., Any]
    frames: int
    prepare: Callable[[], Any] | None = None

    def run(self, device: torch.device = torch.device("cpu")) -> float:
        """Seconds that `call` takes; measured by the GPU if `device` is one."""
        call = partial(self.call, self.prepare()) if self.prepare else self.call
        return _time(call, device)


class _ClipStages:
    """The stages of `predict` for one clip, each with its inputs ready. folder: for the files that are written."""

    def __init__(self, engine: Engine, clip: list[Frame], folder: Path):
        self._engine, self._clip, self._folder = engine, clip, folder
        self._spec = engine.input_spec.fitted(*clip[0].image.shape[:2])
        self._resized = self._resize()
        self._encoded = engine.encode(self._resized)
        self._parts = joined(self._encoded)
        self._small = engine.saliency(self._encoded).cpu().numpy()
        self._maps = self._to_frame_size()

    def stages(self, source: Source, floor: Callable[[], None]) -> dict[str, _Stage]:
        """In the order of the report. source: for decoding and the end-to-end run."""
        length = len(self._clip)
        has_motion = self._engine.network.motion is not None
        return {
            "decode": _Stage(lambda frames: deque(frames, maxlen=0), max(source.count - 1, 1), lambda: _begun(source)),
            "resize": _Stage(self._resize, length),
            "spatial": _Stage(self._spatial, length),
            **({"motion": _Stage(self._motion, length)} if has_motion else {}),
            "temporal": _Stage(self._temporal, length),
            "temporal, head, upsample": _Stage(self._after_spatial, length),
            "network": _Stage(self._network, length),
            "floor": _Stage(floor, length),
            "to frame size": _Stage(self._to_frame_size, length),
            "encode png": _Stage(self._encode_png, length),
            "end to end": _Stage(lambda: self._end_to_end(source), source.count),
        }

    def _resize(self) -> list:
        return [self._spec.resize(frame.image) for frame in self._clip]

    def _spatial(self) -> None:
        batch = self._engine.batch
        for start in range(0, len(self._resized), batch):
            self._engine.encode(self._resized[start : start + batch])

    @torch.inference_mode()
    def _motion(self) -> None:
        self._engine.network.with_motion(self._parts, (1, len(self._clip)))

    @torch.inference_mode()
    def _temporal(self) -> None:
        network = self._engine.network
        network.temporal(network.temporal_input(self._parts, (1, len(self._clip))))

    def _after_spatial(self) -> None:
        self._engine.saliency(self._encoded)

    def _network(self) -> None:
        self._spatial()
        self._after_spatial()

    def _to_frame_size(self) -> list:
        return [self._engine.output_spec(map_, frame.image) for map_, frame in zip(self._small, self._clip)]

    def _encode_png(self) -> None:
        for index, map_ in enumerate(self._maps):
            write_picture(self._folder / f"{index}.png", to_map(map_))

    def _end_to_end(self, source: Source) -> None:
        with ResultWriter(self._folder, ["maps"]) as writer:
            run(source, self._engine, writer, progress=False)


def _begun(source: Source) -> Iterator[Frame]:
    """The source after its first frame, when the decoder's process has started."""
    frames = iter(source)
    next(frames)
    return frames


def _time(call: Callable, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3
