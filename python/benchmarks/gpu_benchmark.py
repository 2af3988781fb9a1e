"""The measurements of gpu_check.py, one JSON line each, the most important first; started by it as a process of its own.

Every contestant's answer is checked against float64 before it is timed; one that is wrong or fails is named in the result, and
the others are timed without it. A line is written as soon as it is measured, so that whatever ends the process costs one
measurement at most; `--start` goes on behind it. After an error that leaves the GPU unusable for this process it ends itself.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gpu_workload as gpu
import torch
from gpu_timing import PRECISIONS, peak_memory, precision_settings, time_interleaved
from measure import check

from pdb_ext._library import NATIVE_DEVICES

ERROR_LIMIT = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}  # relative RMS; guards the timing only


@dataclasses.dataclass(frozen=True)
class Job:
    row: gpu.Row
    group: str  # "eager", "torch.compile", "jax" or "memory"
    precision: str
    training: bool

    def describe(self) -> dict:
        result = {"workload": self.row.name, "group": self.group, "precision": self.precision}
        return result | {"pass": "forward and backward" if self.training else "forward"}


def jobs() -> list[Job]:
    """In the order of their importance. torch.compile takes a minute for a shape, so that it joins few."""
    both, fast = (False, True), ("bfloat16", "tf32")
    paper, nowcasting, *others = gpu.ROWS
    long = next(row for row in gpu.ROWS if row.T == 80)
    return [
        *(Job(paper, "eager", precision, training) for precision in fast for training in both),
        *(Job(paper, "jax", "bfloat16", training) for training in both),
        Job(paper, "torch.compile", "bfloat16", False),
        *(Job(nowcasting, group, "bfloat16", training) for group in ("eager", "jax") for training in both),
        Job(long, "memory", "float32", True),
        Job(long, "memory", "bfloat16", True),
        *(Job(row, "eager", "bfloat16", training) for row in others for training in both),
        Job(paper, "torch.compile", "bfloat16", True),
        Job(nowcasting, "torch.compile", "bfloat16", False),
        *(Job(paper, "eager", precision, training) for precision in ("float16", "float32") for training in both),
        *(Job(row, "eager", "tf32", training) for row in (nowcasting, *others) for training in both),
        *(Job(row, "jax", "bfloat16", training) for row in others for training in both if row.T <= 20),
        *(Job(paper, group, "tf32", training) for group in ("jax", "torch.compile") for training in both),
        Job(nowcasting, "torch.compile", "bfloat16", True),
        *(Job(row, "eager", p, training) for row in (nowcasting, *others) for p in ("float16", "float32") for training in both),
    ]  # fmt: skip


def dry_jobs() -> list[Job]:
    """Every kind of measurement once, on a tiny row."""
    groups = ("eager", "torch.compile", "jax", "memory")
    return [Job(gpu.TINY, g, "tf32", training) for g in groups for training in (False, True) if training or g != "memory"]


@functools.lru_cache(maxsize=2)
def workloads(row: gpu.Row, precision: str, device: str):
    return gpu.workloads(row, precision, device)


def message(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def is_lost(device: str) -> bool:
    """Whether nothing more can be computed in this process, as after an illegal address."""
    try:
        return torch.ones(1, device=device).item() != 1
    except RuntimeError:
        return True


class Answers:
    """Makes contestants ready and checks them."""

    def __init__(self, exact: list[torch.Tensor], limit: float, device: str):
        self.exact, self.limit, self.device = exact, limit, device
        self.functions: dict[str, Callable] = {}
        self.failed: dict[str, str] = {}

    def add(self, name: str, ready: Callable[[], Callable], convert: Callable = lambda results: results) -> None:
        """ready() -> the function to be timed; convert: turns its results into tensors as the exact ones."""
        try:
            function = ready()
            check({name: lambda: convert(function())}, self.exact, self.limit)
            self.functions[name] = function
        except Exception as error:  # whatever it is, it costs this contestant its place and no other
            self.failed[name] = message(error)
            if is_lost(self.device):
                raise RuntimeError(f"{name}: {message(error)}") from error


def measure(job: Job, device: str, seconds: float) -> dict:
    """Times of one group, of all whose answers are right."""
    if job.group == "jax" and importlib.util.find_spec("jax") is None:
        return {"error": "not measured: JAX is not installed"}
    with precision_settings(job.precision):
        workload, exact = workloads(job.row, job.precision, device)
        answers = Answers(exact if job.training else exact[:1], ERROR_LIMIT[job.precision], device)
        if job.group == "eager":
            contestants = gpu.eager_contestants(workload, job.training, device)
        elif job.group == "torch.compile":
            backend = "eager" if device == "cpu" else "inductor"
            contestants = gpu.compiled_contestants(workload, job.training, device, backend)
        else:
            contestants = gpu.anchors(workload, job.training, device)
        for name, ready in contestants.items():
            answers.add(name, ready)
        if job.group == "jax":
            import jax_peers

            if device == "cuda" and not jax_peers.has_gpu():
                return {"error": "not measured: the JAX that is installed has no GPU"}
            answers.exact = [value.cpu() for value in answers.exact]
            for unroll in (False, True):
                run, convert = jax_peers.contestant(workload, job.training, job.precision, unroll)
                answers.add(f"JAX lax.scan{', unrolled' if unroll else ''}", lambda run=run: run, convert)
        # JAX has streams of its own, which CUDA events of PyTorch do not see.
        times = time_interleaved(answers.functions, device, seconds, wall=job.group == "jax")
    result = {"failed": answers.failed} if answers.failed else {}
    medians = {name: statistics.median(values) for name, values in times.items()}
    return result | {"median_ms": medians, "times_ms": times, "flops": workload.flops, "depth": job.row.depth}


def measure_memory(job: Job, device: str) -> dict:
    """Bytes at the peak of one training step, for each contestant, gradients and output included."""
    with precision_settings(job.precision):
        workload = gpu.GpuWorkload(job.row, PRECISIONS[job.precision], device)
        peaks, failed = {}, {}
        for name, function in gpu.memory_contestants(workload).items():
            try:
                peaks[name] = peak_memory(function, device)
            except RuntimeError as error:
                failed[name] = message(error)
        return {"peak_bytes": peaks} | ({"failed": failed} if failed else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run on a tiny row")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended to this file")
    parser.add_argument("--start", type=int, default=0, help="number of the first job")
    parser.add_argument("--until", type=float, required=True, help="no job starts after this time (seconds since 1970)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and "cuda" not in NATIVE_DEVICES:
        parser.exit(1, "gpu_benchmark: pdb_ext has no CUDA kernels here, and its reference is not what is to be measured\n")
    todo = jobs() if arguments.device == "cuda" else dry_jobs()
    for job in todo[arguments.start :]:
        lost = False
        if time.time() > arguments.until:
            result = {"error": "not measured: the time was up"}
        else:
            try:
                run = measure_memory if job.group == "memory" else functools.partial(measure, seconds=1.0)
                result = run(job, arguments.device)
                torch._dynamo.reset()
                if arguments.device == "cuda":
                    torch.cuda.empty_cache()
            except Exception as error:  # the next job may do better
                result, lost = {"error": message(error)}, is_lost(arguments.device)
        with arguments.out.open("a") as file:
            file.write(json.dumps(job.describe() | result) + "\n")
        if lost:
            return


if __name__ == "__main__":
    main()
