"""Which kernels a call of the paper's module launches, and how long each runs. gpu_check.py starts it as a process.

`--once` is one training step and nothing else, for ncu.
"""

import re
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from cpu_workload import Workload
from gpu import workloads
from gpu.jobs import ROWS, TINY
from gpu.timing import PRECISIONS, precision_settings, synchronize
from gpu.worker import Reporter, serve
from peers import ours

CALLS = 10


def short(name: str) -> str:
    """A kernel's name without what is the same for all of them."""
    name = re.sub(r"^void |\(anonymous namespace\)::|pdb::cuda::|at::native::|\(int\)", "", name)
    return re.sub(r"\(.*", "", name, flags=re.DOTALL)[:100]


def kernel_table(function, device: str) -> list[dict]:
    """For each kernel: launches and microseconds in one call, by the time that they take."""
    for _ in range(3):
        function()
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]) as trace:
        for _ in range(CALLS):
            function()
        synchronize(device)
    table: dict[str, list[float]] = {}
    for event in trace.events():
        if device == "cuda" and event.device_type != torch.autograd.DeviceType.CUDA:
            continue  # what the CPU did
        row = table.setdefault(short(event.name), [0, 0.0])
        row[0] += 1
        row[1] += event.time_range.elapsed_us()
    rows = [{"kernel": name, "count": n / CALLS, "us": us / CALLS} for name, (n, us) in table.items()]
    return sorted(rows, key=lambda row: -row["us"])


def module(device: str, precision: str) -> workloads.GpuWorkload:
    row = ROWS[0] if device == "cuda" else TINY
    return workloads.GpuWorkload(row, PRECISIONS[precision], device)


def run(key: str, device: str, reporter: Reporter) -> dict:
    precision, name = key.split(" | ")
    with precision_settings(precision):
        workload, step = module(device, precision), workloads.step_of(name != "forward")
        rows = kernel_table(lambda: step(workload, ours), device)
    launches, us = sum(row["count"] for row in rows), sum(row["us"] for row in rows)
    return {"kernels": rows[:40], "launches": launches, "us": us}


def once() -> None:
    Workload.training(module("cuda", "bfloat16"), ours)
    torch.cuda.synchronize()


if __name__ == "__main__":
    once() if sys.argv[1:] == ["--once"] else serve(__doc__.split("\n")[0], run)
