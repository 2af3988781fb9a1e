"""The measurements of gpu_check.py, one JSON line each, the most important first; started by it as a process of its own.

Every contestant's answer is checked against float64 before it is timed. A line is written as soon as it is measured, so that
whatever ends the process costs one measurement at most; `--start` goes on behind it.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import statistics
import time
from pathlib import Path

import gpu_workload as gpu
import torch
from gpu_timing import PRECISIONS, peak_memory, precision_settings, time_interleaved
from measure import check

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


def measure(job: Job, device: str, seconds: float) -> dict:
    """Times of one group; raises AssertionError for a wrong answer."""
    if job.group == "jax" and importlib.util.find_spec("jax") is None:
        return {"error": "not measured: JAX is not installed"}
    with precision_settings(job.precision):
        workload, exact = workloads(job.row, job.precision, device)
        exact = exact if job.training else exact[:1]
        limit = ERROR_LIMIT[job.precision]
        if job.group == "eager":
            functions = gpu.eager_contestants(workload, job.training, device)
        elif job.group == "torch.compile":
            backend = "eager" if device == "cpu" else "inductor"
            functions = gpu.compiled_contestants(workload, job.training, device, backend)
        else:
            functions = gpu.anchors(workload, job.training, device)
        check(functions, exact, limit)
        if job.group == "jax":
            import jax_peers

            for unroll in (False, True):
                run, convert = jax_peers.contestant(workload, job.training, job.precision, unroll)
                name = f"JAX lax.scan{', unrolled' if unroll else ''}"
                check({name: lambda run=run, convert=convert: convert(run())}, [value.cpu() for value in exact], limit)
                functions[name] = run
        # JAX has streams of its own, which CUDA events of PyTorch do not see.
        times = time_interleaved(functions, device, seconds, wall=job.group == "jax")
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"median_ms": medians, "times_ms": times, "flops": workload.flops, "depth": job.row.depth}


def measure_memory(job: Job, device: str) -> dict:
    """Bytes at the peak of one training step, for each contestant, gradients and output included."""
    with precision_settings(job.precision):
        workload = gpu.GpuWorkload(job.row, PRECISIONS[job.precision], device)
        return {"peak_bytes": {name: peak_memory(f, device) for name, f in gpu.memory_contestants(workload).items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run on a tiny row")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended to this file")
    parser.add_argument("--start", type=int, default=0, help="number of the first job")
    parser.add_argument("--until", type=float, required=True, help="no job starts after this time (seconds since 1970)")
    arguments = parser.parse_args()
    todo = jobs() if arguments.device == "cuda" else dry_jobs()
    for job in todo[arguments.start :]:
        if time.time() > arguments.until:
            result = {"error": "not measured: the time was up"}
        else:
            try:
                run = measure_memory if job.group == "memory" else functools.partial(measure, seconds=1.0)
                result = run(job, arguments.device)
            except (AssertionError, RuntimeError) as error:  # torch's out of memory is a RuntimeError
                result = {"error": str(error).strip().split("\n")[0][:300]}
            torch._dynamo.reset()
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
        with arguments.out.open("a") as file:
            file.write(json.dumps(job.describe() | result) + "\n")


if __name__ == "__main__":
    main()
