"""Times contestants on a GPU after checking their answers; started by gpu_check.py as a separate process.

Every contestant's result is checked against float64 before it is timed. A contestant that is wrong or fails is named in
the report, and the others are timed without it.
"""

import importlib.util
from collections.abc import Callable

import torch

from gpu import workloads
from gpu.jobs import Job, every_job
from gpu.processes import clocks
from gpu.timing import PRECISIONS, peak_memory, precision_settings, synchronize, time_interleaved
from gpu.worker import Lost, Reporter, is_lost, message, serve
from measure import check

ERROR_LIMIT = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}  # relative RMS; guards the timing only
SECONDS = {True: 3.0, False: 1.2}  # seconds of timing: headlines, other rows
DOES_NOT_FIT = "does not fit"  # on the chip: no failure of a path that was forced


class Answers:
    """Makes contestants ready and checks them."""

    def __init__(self, exact: list[torch.Tensor], limit: float, device: str, reporter: Reporter):
        self.exact, self.limit, self.device, self.reporter = exact, limit, device, reporter
        self.functions: dict[str, Callable] = {}
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def add(self, name: str, ready: Callable[[], Callable], convert: Callable = lambda results: results) -> None:
        """ready() -> the function to be timed; convert: turns its results into tensors like the exact ones."""
        if name in self.reporter.without:
            return
        self.reporter.begin(name)
        try:
            function = ready()
            check({name: lambda: convert(function())}, self.exact, self.limit)
            self.functions[name] = function
        except Exception as error:  # any error disqualifies this contestant only
            if is_lost(self.device):
                raise Lost(message(error)) from error
            (self.left_out if DOES_NOT_FIT in str(error) else self.failed)[name] = message(error)


def contestants(job: Job, workload: workloads.GpuWorkload, device: str) -> workloads.Contestants:
    if job.group == "eager":
        return workloads.eager_contestants(workload, job.training, device)
    anchors = workloads.anchors(workload, job.training, device)
    if job.group == "cudnn.benchmark":
        return anchors | workloads.benchmarked_contestants(workload, job.training, device)
    if job.group in ("torch.compile", "max-autotune"):
        mode = "default" if job.group == "torch.compile" else job.group
        return anchors | workloads.compiled_contestants(
            workload, job.training, mode, "eager" if device == "cpu" else "inductor"
        )
    return anchors


def add_jax(answers: Answers, job: Job, workload: workloads.GpuWorkload) -> Callable[[object], None]:
    """Two more contestants. Returns how to wait for the last result of any contestant."""
    import jax

    import jax_peers

    if answers.device == "cuda" and not jax_peers.has_gpu():
        raise RuntimeError("not measured: the JAX that is installed has no GPU")
    exact, answers.exact = answers.exact, [value.cpu() for value in answers.exact]
    for unroll in (False, True):
        run, convert = jax_peers.contestant(workload, job.training, job.precision, unroll)
        answers.add(f"JAX lax.scan{', unrolled' if unroll else ''}", lambda run=run: run, convert)
    answers.exact = exact

    def wait(result: object) -> None:
        jax.block_until_ready(result)
        synchronize(answers.device)

    return wait


def measure(job: Job, device: str, reporter: Reporter, seconds: float | None = None) -> dict:
    """Times of one group."""
    if job.group == "jax" and importlib.util.find_spec("jax") is None:
        return {"error": "not measured: JAX is not installed"}
    # A plan that cuDNN has chosen for a shape stays in its cache even if this setting changes later: one per process.
    torch.backends.cudnn.benchmark = job.group == "cudnn.benchmark"
    with precision_settings(job.precision):
        workload, exact = workloads.with_exact(job.row, job.precision, device)
        answers = Answers(exact if job.training else exact[:1], ERROR_LIMIT[job.precision], device, reporter)
        for name, ready in contestants(job, workload, device).items():
            answers.add(name, ready)
        wait = add_jax(answers, job, workload) if job.group == "jax" else None
        reporter.begin(None)
        kinds = ("device", "wall", "flushed") if job.is_headline else ("device", "wall")
        # JAX has its own streams, which CUDA events of PyTorch do not see.
        kinds = ("wall",) if job.group == "jax" else kinds
        before = clocks() if job.is_headline and device == "cuda" else None
        times = time_interleaved(answers.functions, device, seconds or SECONDS[job.is_headline], kinds, wait)
    result = {"times": times, "flops": workload.flops, "depth": job.row.depth}
    result |= {name: value for name, value in (("failed", answers.failed), ("left_out", answers.left_out)) if value}
    return result | ({"clocks": [before, clocks()]} if before else {})


def measure_memory(job: Job, device: str, reporter: Reporter) -> dict:
    """Bytes at the peak of one training step, for each contestant, gradients and output included."""
    with precision_settings(job.precision):
        workload = workloads.GpuWorkload(job.row, PRECISIONS[job.precision], device)
        peaks, failed = {}, {}
        for name, function in workloads.memory_contestants(workload).items():
            if name in reporter.without:
                continue
            reporter.begin(name)
            try:
                peaks[name] = peak_memory(function, device)
            except RuntimeError as error:
                if is_lost(device):
                    raise Lost(message(error)) from error
                failed[name] = message(error)
        return {"peak_bytes": peaks} | ({"failed": failed} if failed else {})


def run(key: str, device: str, reporter: Reporter) -> dict:
    job = every_job(device)[key]
    seconds = {"seconds": 0.05} if device == "cpu" else {}
    result = (
        measure_memory(job, device, reporter) if job.group == "memory" else measure(job, device, reporter, **seconds)
    )
    if job.group in ("torch.compile", "max-autotune"):
        torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
    return job.describe() | result


if __name__ == "__main__":
    serve(__doc__.split("\n")[0], run)
