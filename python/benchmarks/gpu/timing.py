"""Timing and capturing on a GPU, and the same on the CPU for a dry run.

All contestants of a measurement take turns, and every turn takes the same times of each, in milliseconds for one call:

    device    CUDA events around a few calls that were queued while the GPU was kept busy by a kernel that only waits:
              launching costs nothing, as inside a CUDA graph or behind other work. `hidden` is the share of the samples
              in which all was queued in time; a call with more launches than the queue holds (1,024) cannot be
              hidden completely
    wall      the clock around a few calls in a row and one wait for the last: what a user sees if the GPU does nothing
              else
    flushed   as device, for one call, after 128 MB have been written through the L2 cache; for the headlines only

Otherwise the L2 cache is warm: the few megabytes of a call stay in it from one call to the next, as they do in use. To
give every contestant this advantage, each sample is preceded by a call that does not count. The clocks are not changed.
"""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch

PRECISIONS = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float16": torch.float16, "float32": torch.float32}
QUEUE_S = 900 * 3e-6  # to launch as much as the queue of 1,024 surely holds, at no less than 3 us a launch
SAMPLE_S = 5e-3  # of one sample, at least one call
MOST_CALLS = 20  # in a row
LONGEST_SLEEP_S = 20e-3
CYCLES_PER_S = 2e9  # more than any clock, so that the GPU sleeps for long enough
WARM_UP_S = 0.2  # of turns that do not count, after which clocks have risen
Wait = Callable[[object], None]


@contextlib.contextmanager
def precision_settings(precision: str) -> Iterator[None]:
    """TF32 in convolutions and products, or not."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, getattr(cudnn, "fp32_precision", None)
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    if precision == "tf32" and before[2] is not None:
        cudnn.fp32_precision = "tf32"  # what torch.compile's own convolutions ask
    try:
        yield
    finally:
        if before[2] is not None:
            cudnn.fp32_precision = before[2]
        cudnn.allow_tf32, matmul.allow_tf32 = before[:2]


@contextlib.contextmanager
def cuda_path(name: str | None) -> Iterator[None]:
    """Forces a path of pdb_ext, which reads the variable at every call; None leaves the choice to it."""
    before = os.environ.pop("PDB_EXT_CUDA_PATH", None)
    if name is not None:
        os.environ["PDB_EXT_CUDA_PATH"] = name
    try:
        yield
    finally:
        os.environ.pop("PDB_EXT_CUDA_PATH", None)
        if before is not None:
            os.environ["PDB_EXT_CUDA_PATH"] = before


def graphed(function: Callable, device: str) -> Callable:
    """The function captured in a CUDA graph: a call replays it. On the CPU the function itself."""
    if device == "cpu":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay():
        graph.replay()
        return result

    return replay


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@dataclasses.dataclass
class Timer:
    """Takes the samples of one contestant."""

    run: Callable
    device: str
    wait: Wait
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    hidden: list[bool] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        """Warms up, and sees how long a call takes to be queued and to be done."""
        queued, done = [], []
        for _ in range(4 if self.device != "cpu" else 1):
            synchronize(self.device)
            begin = time.perf_counter()
            result = self.run()
            queued.append(time.perf_counter() - begin)
            self.wait(result)
            done.append(time.perf_counter() - begin)
        self.queue_s = min(queued)
        self.calls = max(1, min(MOST_CALLS, int(SAMPLE_S / min(done)))) if self.device != "cpu" else 1  # in a row
        self.hidden_calls = max(1, min(self.calls, int(QUEUE_S / self.queue_s)))

    def forget(self) -> None:
        self.times, self.hidden = {}, []

    def sample(self, kinds: tuple[str, ...], flush: torch.Tensor | None) -> None:
        for kind in kinds:
            if kind == "wall" or self.device == "cpu":
                milliseconds = self.wall_ms()
            else:
                milliseconds = self.device_ms(None if kind == "device" else flush)
            self.times.setdefault(kind, []).append(milliseconds)

    def wall_ms(self) -> float:
        self.wait(self.run())
        begin = time.perf_counter()
        for _ in range(self.calls):
            result = self.run()
        self.wait(result)
        return 1e3 * (time.perf_counter() - begin) / self.calls

    def device_ms(self, flush: torch.Tensor | None) -> float:
        calls = self.hidden_calls if flush is None else 1
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if flush is None:
            self.run()
        synchronize(self.device)
        torch.cuda._sleep(int(min(1.5 * calls * self.queue_s + 1e-4, LONGEST_SLEEP_S) * CYCLES_PER_S))
        if flush is not None:
            flush.zero_()
        begin.record()
        for _ in range(calls):
            self.run()
        end.record()
        if flush is None:
            self.hidden.append(not begin.query())  # the GPU still waited when all was queued
        end.synchronize()
        return begin.elapsed_time(end) / calls

    def summary(self) -> dict:
        """For each kind of time its quartiles: the first, the median, the third."""
        result = {f"{kind}_ms": statistics.quantiles(values, n=4) for kind, values in self.times.items()}
        if self.hidden:
            result["hidden"] = sum(self.hidden) / len(self.hidden)
        return result | {"calls": self.calls, "samples": len(next(iter(self.times.values())))}


def time_interleaved(
    functions: dict[str, Callable],
    device: str,
    seconds: float,
    kinds: tuple[str, ...] = ("device", "wall"),
    wait: Wait | None = None,
    most: int = 200,
) -> dict[str, dict]:
    """Summaries of the times of all functions, in rounds of one turn each; between five rounds and the given maximum.

    wait(result of the last call) returns when that call is done.
    """
    timers = {
        name: Timer(function, device, wait or (lambda _: synchronize(device))) for name, function in functions.items()
    }
    flush = torch.empty(2**27, dtype=torch.uint8, device=device) if "flushed" in kinds and device != "cpu" else None
    start, rounds, warm = time.perf_counter(), 0, False
    while timers and (not warm or rounds < 5 or (rounds < most and time.perf_counter() - start < seconds)):
        for timer in timers.values():
            timer.sample(kinds, flush)
        rounds += 1
        if not warm and time.perf_counter() - start >= min(WARM_UP_S, seconds / 5):
            start, rounds, warm = time.perf_counter(), 0, True
            for timer in timers.values():
                timer.forget()
    return {name: timer.summary() for name, timer in timers.items()}


def peak_memory(function: Callable, device: str) -> int | None:
    """Bytes at the peak of a second call, above what was allocated before; None on the CPU (see memory.py)."""
    if device == "cpu":
        return None
    function()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before
