"""Fair timing: check the answers first, then interleave the contestants sample by sample in one run."""

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def check(contestants: dict[str, Callable[[], list[Tensor]]], exact: list[Tensor], limit: float = 1e-4) -> None:
    """Every output of every contestant has a relative RMS error below `limit` against `exact` (float64)."""
    for name, run in contestants.items():
        errors = [relative_error(ours, value) for ours, value in zip(run(), exact, strict=True)]
        if not max(errors) < limit:
            raise AssertionError(f"{name}: relative RMS error {max(errors):.2g}, allowed {limit:.2g}")


def relative_error(value: Tensor, exact: Tensor) -> float:
    value, exact = value.detach().double(), exact.detach()
    return float((value - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def interleave(contestants: dict[str, Callable], seconds: float, samples: int) -> dict[str, list[float]]:
    """Times (s) of 5 to `samples` rounds, each of which runs every contestant once, within about `seconds`."""
    times = {name: [] for name in contestants}
    for run in contestants.values():  # warm-up: compiles, allocates, fills caches
        run()
        run()
    start = time.perf_counter()
    while len(times[next(iter(times))]) < samples:
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
        if time.perf_counter() - start > seconds and len(times[name]) >= 5:
            break
    return times


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and quartiles in milliseconds."""
    result = {}
    for name, values in times.items():
        low, median, high = (1e3 * value for value in statistics.quantiles(values, n=4))
        result[name] = {"median_ms": median, "low_ms": low, "high_ms": high, "samples": len(values)}
    return result


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median of the ratios within rounds, so that drift cancels."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast]))


def machine() -> dict[str, str]:
    model = next(
        (line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": f"{model}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _cpu_info() -> Iterator[str]:
    try:
        with open("/proc/cpuinfo") as file:
            yield from file
    except OSError:
        return
