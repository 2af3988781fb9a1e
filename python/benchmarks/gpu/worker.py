"""What all measuring processes have in common: they do their jobs one after the other and report their progress.

A process appends lines of JSON to a file: {"trying": NAME} before it starts a contestant, so that gpu_check.py
knows which one never came back, and a result with its "key" after every job. After an error that leaves the GPU
unusable, the process ends itself.
"""

import argparse
import contextlib
import faulthandler
import json
from collections.abc import Callable
from pathlib import Path

import torch

from gpu.processes import workload_of
from pdb_ext._library import NATIVE_DEVICES, why_not_native


def message(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]


def is_lost(device: str) -> bool:
    """Whether nothing more can be computed in this process, as after an illegal address."""
    try:
        return torch.ones(1, device=device).item() != 1
    except RuntimeError:
        return True


class Lost(RuntimeError):
    """A contestant took the GPU from this process."""


class Reporter:
    """Writes the lines, and remembers which contestants the current workload leaves out."""

    def __init__(self, out: Path, without: list[str]):
        self.out, self.without, self.trying = out, set(without), None

    def write(self, line: dict) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def begin(self, name: str | None) -> None:
        self.trying = name
        self.write({"trying": name})


def recorded_calls(device: str):
    """A list of the calls that pdb_ext's native ops make; empty on the CPU, whose ops have no choice of paths."""
    if device == "cpu":
        return contextlib.nullcontext([])
    import pdb_ext

    return pdb_ext.record_calls()


def serve(description: str, run: Callable[[str, str, Reporter], dict]) -> None:
    """The program: run(key of a job, device, reporter) -> its result, for every job that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run on a tiny workload")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended to this file")
    parser.add_argument("--jobs", nargs="+", required=True, help="keys of the jobs, in their order")
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out of the first workload")
    arguments = parser.parse_args()
    faulthandler.enable()  # gpu_check.py ends a hanging process with SIGABRT; this prints where it hung
    device = arguments.device
    if device == "cuda" and "cuda" not in NATIVE_DEVICES:
        why = why_not_native or "the library found is for the CPU only"
        parser.exit(1, f"pdb_ext has no CUDA kernels here, and its reference is not worth measuring: {why}\n")
    if device == "cpu":
        torch.set_num_threads(1)  # tiny tensors: a second thread only waits
    reporter = Reporter(arguments.out, arguments.without)
    for key in arguments.jobs:
        if workload_of(key) != workload_of(arguments.jobs[0]):
            reporter.without = set()
        lost = False
        reporter.begin(None)
        try:
            result = run(key, device, reporter)
        except Exception as error:  # the next job may do better
            result, lost = {"error": message(error)}, isinstance(error, Lost) or is_lost(device)
        if lost and reporter.trying is not None:
            parser.exit(3, f"{reporter.trying}: {result['error']}\n")  # the job is repeated without it
        reporter.write({"key": key} | result)
        if lost:
            return
