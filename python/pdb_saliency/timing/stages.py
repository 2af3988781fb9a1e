"""How long each stage of `predict` takes, and beside it the floor: the network's convolutions alone.

The stages are measured one after the other in rounds, so that what else the machine does hits all of them; a ratio is the
median of the ratios within the rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdb_ext import ConvLSTM
from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference.engine import Engine, joined
from pdb_saliency.model.backbones.efficientnet import SameConv2d
from pdb_saliency.predict.job import run
from pdb_saliency.predict.outputs.postprocess import to_map
from pdb_saliency.predict.outputs.writer import ResultWriter, write_picture
from pdb_saliency.video.frame import Frame, Source

# Largest relative RMS difference of the engine's maps from the plain float32 model's.
_LIMITS = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


@dataclass
class Timings:
    """seconds: of each stage, a value a round, for one frame. difference: relative RMS of the engine's maps from the model's.

    floor_gmac: multiplications (1e9) of the convolutions, for one frame.
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


def measure(model: nn.Module, engine: Engine, source: Source, frames: int, seconds: float) -> Timings:
    """Check the engine's maps of the first clip against the model's, then time rounds for about `seconds`, at least three.

    frames: how many of the source's an end-to-end run takes. Raises SaliencyError when the maps differ, InputError.
    """
    length = engine.options.clip_length
    clip = list(islice(source, length))
    if len(clip) < length:
        raise SaliencyError(f"the source must have at least {length} frames, a clip, got {len(clip)}")
    difference = _check(model, engine, clip)
    spec = engine.input_spec.fitted(*clip[0].image.shape[:2])
    floor, gmac = convolutions_alone(model, engine, (spec.height, spec.width), length)
    with tempfile.TemporaryDirectory() as folder:
        stages = _stages(engine, FirstFrames(source, frames), clip, Path(folder), floor)
        timings = Timings(difference, gmac, frames, {name: [] for name in stages})
        for stage in stages.values():  # Allocates, chooses kernels, fills caches.
            stage.run()
        start = time.perf_counter()
        while len(timings.seconds["end to end"]) < 3 or time.perf_counter() - start < seconds:
            for name, stage in stages.items():
                timings.seconds[name].append(stage.run(engine.device) / stage.frames)
    return timings


@dataclass(frozen=True)
class _Stage:
    """call: is timed, with what `prepare` returned just before. frames: that it processes."""

    call: Callable[..., Any]
    frames: int
    prepare: Callable[[], Any] | None = None

    def run(self, device: torch.device = torch.device("cpu")) -> float:
        """Seconds of `call`; of the GPU where `device` is one."""
        call = partial(self.call, self.prepare()) if self.prepare else self.call
        return _time(call, device)


def _check(model: nn.Module, engine: Engine, clip: list[Frame]) -> float:
    """The relative RMS difference. Raises SaliencyError for one above `_LIMITS`."""
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


def largest_difference(engine: Engine) -> float:
    """The relative RMS difference from the plain float32 model's maps that the engine's precision allows."""
    tf32 = (
        engine.device.type == "cuda" and torch.backends.cudnn.allow_tf32
    )  # PyTorch's default; its mantissa is float16's.
    return _LIMITS[torch.float16 if tf32 and engine.dtype == torch.float32 else engine.dtype]


def _stages(engine: Engine, source: Source, clip: list[Frame], folder: Path, floor: Callable) -> dict[str, _Stage]:
    length, spec = len(clip), engine.input_spec.fitted(*clip[0].image.shape[:2])
    resized = [spec.resize(frame.image) for frame in clip]
    encoded = engine.encode(resized)
    parts = joined(encoded)
    small = engine.saliency(encoded).cpu().numpy()
    maps = [engine.output_spec(map_, frame.image) for map_, frame in zip(small, clip)]

    def spatial():
        for start in range(0, length, engine.batch):
            engine.encode(resized[start : start + engine.batch])

    def network():
        spatial()
        engine.saliency(encoded)

    @torch.inference_mode()
    def temporal():
        engine.network.temporal(engine.network.temporal_input(parts, (1, length)))

    @torch.inference_mode()
    def motion():
        engine.network.with_motion(parts, (1, length))

    def encode():
        for index, map_ in enumerate(maps):
            write_picture(folder / f"{index}.png", to_map(map_))

    def begun() -> Iterator[Frame]:
        """The source behind its first frame: a decoder's process has started by then."""
        frames = iter(source)
        next(frames)
        return frames

    def end_to_end():
        with ResultWriter(folder, ["maps"]) as writer:
            run(source, engine, writer, progress=False)

    has_motion = engine.network.motion is not None
    return {
        "decode": _Stage(lambda frames: deque(frames, maxlen=0), max(source.count - 1, 1), begun),
        "resize": _Stage(lambda: [spec.resize(frame.image) for frame in clip], length),
        "spatial": _Stage(spatial, length),
        **({"motion": _Stage(motion, length)} if has_motion else {}),
        "temporal": _Stage(temporal, length),
        "temporal, head, upsample": _Stage(lambda: engine.saliency(encoded), length),
        "network": _Stage(network, length),
        "floor": _Stage(floor, length),
        "to frame size": _Stage(lambda: [engine.output_spec(m, f.image) for m, f in zip(small, clip)], length),
        "encode png": _Stage(encode, length),
        "end to end": _Stage(end_to_end, source.count),
    }


def convolutions_alone(
    model: nn.Module, engine: Engine, size: tuple[int, int], length: int
) -> tuple[Callable[[], None], float]:
    """A function that runs every convolution of the model, those inside the ConvLSTM layers included, in plain PyTorch
    over random numbers, for a clip of `length` frames of (height, width); and its multiplications for one frame, in 1e9.

    Shapes, batch and dtype are the engine's, the layout is PyTorch's own on CPUs and channels last on GPUs.
    """
    groups, calls = -(-length // engine.batch), []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        spatial = in_spatial[module]
        if isinstance(module, ConvLSTM):
            x = inputs[0].shape if not module.batch_first else inputs[0].transpose(0, 1).shape
            padding = module.dilation * (module.kernel_size // 2)
            geometry = ((1, 1), (padding, padding), (module.dilation,) * 2, 1)
            calls.append(((length, *x[2:]), module.weight_x.shape, geometry, 1))
            calls.append(((1, module.hidden_channels, *x[3:]), module.weight_h.shape, geometry, length))
            return
        x, padding = inputs[0], module.padding
        if isinstance(module, SameConv2d):
            x, padding = module.pad(x, module.kernel_size[0], module.stride[0], module.dilation[0], module.groups)
        geometry = (module.stride, padding, module.dilation, module.groups)
        batch = min(engine.batch, length) if spatial else length
        calls.append(((batch, *x.shape[1:]), module.weight.shape, geometry, groups if spatial else 1))

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, ConvLSTM))]
    inside = set(model.spatial.modules())
    in_spatial = {module: module in inside for module in layers}
    handles = [module.register_forward_hook(hook) for module in layers]
    with torch.inference_mode():
        model(torch.zeros(1, 1, 3, *size))
    for handle in handles:
        handle.remove()
    layout = torch.channels_last if engine.device.type == "cuda" else torch.contiguous_format

    def random(shape: Iterable[int]) -> Tensor:
        return torch.randn(tuple(shape), device=engine.device, dtype=engine.dtype).to(memory_format=layout)

    prepared = [(random(x), random(weight), geometry, repeats) for x, weight, geometry, repeats in calls]

    @torch.inference_mode()
    def floor() -> None:
        for x, weight, geometry, repeats in prepared:
            for _ in range(repeats):
                output = F.conv2d(x, weight, None, *geometry)
        del output

    with torch.inference_mode():
        sizes = (
            F.conv2d(x, w, None, *geometry).numel() * w[0].numel() * repeats for x, w, geometry, repeats in prepared
        )
        return floor, sum(sizes) / length / 1e9


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
