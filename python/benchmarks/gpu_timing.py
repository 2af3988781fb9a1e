"""Timing and capturing on a GPU, and the same on the CPU for a dry run."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import torch

PRECISIONS = {"bfloat16": torch.bfloat16, "tf32": torch.float32, "float16": torch.float16, "float32": torch.float32}


@contextlib.contextmanager
def precision_settings(precision: str) -> Iterator[None]:
    """TF32 in convolutions and products, or not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


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
    """The function captured by hand in a CUDA graph: a call replays it. On the CPU the function itself."""
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


def time_once(function: Callable, device: str, wall: bool) -> float:
    """Milliseconds: by CUDA events, or by the wall clock with the GPU idle before and after."""
    synchronize(device)
    if device == "cpu" or wall:
        begin = time.perf_counter()
        function()
        synchronize(device)
        return 1e3 * (time.perf_counter() - begin)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def time_interleaved(
    functions: dict[str, Callable], device: str, seconds: float, samples: int = 50, wall: bool = False
) -> dict[str, list[float]]:
    """Milliseconds of up to `samples` rounds that run every function once, after two warm-ups each."""
    for function in functions.values():
        function()
        function()
    times, start = {name: [] for name in functions}, time.perf_counter()
    for count in range(samples):
        if count >= 5 and time.perf_counter() - start > seconds:
            break
        for name, function in functions.items():
            times[name].append(time_once(function, device, wall))
    return times


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
