"""All that needs a GPU, in one command: `python python/benchmarks/gpu_check.py [--stage quick|full] [--out DIR]`.

There are two stages, which can be run one by one where a machine is lent for minutes; without --stage both run:

    quick   under 200 s, and under 240 s with the build: the results of every path, the tests of pyramids, graphs,
            streams and determinism, the kernels of a call, and the paper's module against its peers
    full    under 540 s; continues from the results of quick in DIR: all tests, ncu, memcheck, memory, and as many rows
            of the table as time allows, the most important first

Every part is a process with a time limit, so that a part that fails, hangs or loses the GPU does not affect the others.
gpu_check.json and gpu_check.md are written after every measurement. At the end one screen of headlines is printed. The
exit code is 1 if anything failed. --no-build takes the library that build_for_gpu.py has left in build-gpu/, here or
elsewhere. `--device cpu` runs all of it on a tiny workload, to test this program itself.
"""

import argparse
import concurrent.futures
import datetime
import hashlib
import importlib.metadata
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

import build_for_gpu
from gpu import headlines as gpu_headlines
from gpu import jobs as gpu_jobs
from gpu import parts
from gpu import report as gpu_report
from gpu.processes import ROOT, TIME_WAS_UP, clocks, log_to, run_jobs, say, stop_all

# Seconds: of a stage, less what its last part takes to end; of a part at most. The measurements have what these leave.
STAGES = {"quick": 185, "full": 520}
LIMITS = {"build": 150, "answers": 60, "quick tests": 60, "profile": 45, "floors": 25}
LIMITS |= {"tests": 130, "ncu": 60, "memcheck": 60, "large": 45}
BUILD_S = 40  # more for a quick run that builds
VERDICTS = {True: "PASS", False: "FAIL", None: "NOT RUN"}
CODE = (".py", ".h", ".cpp", ".cu")
ANSWER_S, PROFILE_S = 20, 25  # of silence of a path, of a profile


def printed(*command: str) -> str:
    """What the program prints; nothing if it is missing or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def code() -> str:
    """A digest of everything that is measured, tested or measures; the tree may be here without git."""
    digest = hashlib.sha256()
    for folder in ("csrc", "pdb_ext", "python/benchmarks", "tests"):
        for path in sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in CODE):
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def machine(device: str) -> dict:
    driver = printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    try:
        jax = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax = "not installed"
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "none: a dry run, whose numbers mean nothing",
        "driver": driver or "unknown",
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "jax": jax,
        "commit": printed("git", "describe", "--always", "--dirty") or "unknown",
        "code": code(),
        "date": datetime.date.today().isoformat(),
    }


class Check:
    """The report, and the parts that fill it; goes_on: continue with the report that is there."""

    def __init__(self, device: str, out: Path, copy: Path | None, goes_on: bool):
        self.device, self.out, self.copy = device, out, copy
        self.until, self.lock = 0.0, threading.Lock()
        self.share = 1.0  # of their usual time that parts have
        self.folder = Path(tempfile.mkdtemp(prefix="gpu_check_"))  # holds the files that workers write
        sections = ("machines", "seconds", "clocks", "checks", "answers", "profile", "floors", "ncu", "benchmark")
        self.report: dict[str, dict] = {name: {} for name in sections}
        if goes_on and (out / "gpu_check.json").exists():
            self.go_on_from(json.loads((out / "gpu_check.json").read_text()))

    def go_on_from(self, earlier: dict) -> None:
        """Take over earlier measurements, if they are of the same code on the same kind of GPU."""
        now = machine(self.device)
        kinds = ("gpu", "torch", "code")
        if all(other.get(kind) == now[kind] for other in earlier.get("machines", {}).values() for kind in kinds):
            self.report |= earlier
        else:
            say(f"the report in {self.out} is of other code or another machine: nothing of it is kept")

    def write(self) -> None:
        with self.lock:
            gpu_report.write(self.out, self.report, self.copy)

    def left(self, name: str) -> float:
        """Seconds for a part."""
        return min(LIMITS[name] * self.share, self.until - time.time())

    def check(self, name: str, result: dict) -> bool:
        self.report["checks"][name] = result
        self.write()
        return result["passed"] is not False

    def part(self, name: str, function, label: str | None = None) -> None:
        """function(device, seconds) -> its result; nothing if no time is left."""
        seconds = self.left(name)
        self.check(label or name, function(self.device, seconds) if seconds > 5 else parts.not_run(TIME_WAS_UP))

    def run_jobs(self, program: str, jobs: dict[str, float], section: str, until: float, name: str = "jobs") -> None:
        """Into a section of the report, each as soon as it is known."""

        def done(result: dict) -> None:
            key = result["key"]
            job = gpu_jobs.every_job(self.device).get(key) if section == "benchmark" else None
            with self.lock:
                self.report[section][key] = (job.describe() if job else {}) | result
            if section == "answers":
                words = result.get("words") or result.get("error")
                say(f"{VERDICTS[result.get('passed', False)]} {key.replace(' | ', ' ')}: {words}")
            self.write()

        command = parts.worker(program, "--device", self.device)
        run_jobs(command, jobs, self.folder / f"{name}.jsonl", until, done, **parts.environment())

    def answers(self) -> None:
        """All paths at once: they wait for their imports, and hardly for the GPU."""
        until = time.time() + self.left("answers")
        paths = list(gpu_jobs.PATHS) if self.device == "cuda" else ["step", "pyramid"]

        def of_path(path: str) -> None:
            jobs = dict.fromkeys(gpu_jobs.answers(path), ANSWER_S)
            self.run_jobs("answers", jobs, "answers", until, path)

        with concurrent.futures.ThreadPoolExecutor(len(paths)) as pool:
            list(pool.map(of_path, paths))

    def profile(self) -> None:
        jobs = dict.fromkeys(gpu_jobs.PROFILED if self.device == "cuda" else gpu_jobs.PROFILED[:1], PROFILE_S)
        self.run_jobs("profile", jobs, "profile", time.time() + self.left("profile"))

    def benchmark(self, jobs: list[gpu_jobs.Job]) -> None:
        """One process for consecutive jobs of the same group. What was measured before is not measured again."""
        todo = [job for job in jobs if self.is_open(job)]
        for _group, some in itertools.groupby(todo, key=lambda job: job.group):
            silences = {job.key: job.silence_s for job in some}
            self.run_jobs("benchmark", silences, "benchmark", self.until)

    def is_open(self, job: gpu_jobs.Job) -> bool:
        return self.report["benchmark"].get(job.key, {"error": TIME_WAS_UP}).get("error") == TIME_WAS_UP

    def quick(self) -> None:
        self.answers()
        for name, result in parts.quick_tests(self.device, self.left("quick tests")).items():
            self.check(name, result)
        self.profile()
        jobs = gpu_jobs.jobs("quick", self.device)
        compiled = [job for job in jobs if job.group in ("torch.compile", "max-autotune")]
        self.benchmark([job for job in jobs if job not in compiled])
        if self.left("floors") > 5:
            self.report["floors"] = parts.floors(self.device, self.left("floors"), self.folder / "floors.jsonl")
        self.benchmark(compiled)

    def full(self) -> None:
        self.part("tests", parts.all_tests)
        self.part("ncu", lambda device, seconds: parts.ncu(device, seconds, self.out))
        self.report["ncu"] = self.report["checks"]["ncu"].pop("metrics", self.report["ncu"])
        self.part("memcheck", parts.memcheck)
        jobs = gpu_jobs.jobs("full", self.device)
        first = next(number for number, job in enumerate(jobs) if job.group == "max-autotune")
        self.benchmark([*gpu_jobs.jobs("quick", self.device), *jobs[:first]])
        self.part("large", parts.large_tests, "tests that need most of the memory")
        self.benchmark(jobs[first:])

    def stage(self, name: str, build: bool, seconds: float | None) -> None:
        start = time.time()
        self.until = start + (seconds or STAGES[name])
        self.share = min(1.0, (seconds or STAGES[name]) / STAGES[name])
        self.report["machines"][name] = machine(self.device)
        before = clocks()
        if build:
            self.until += 0 if seconds else BUILD_S
            if not self.check("build", parts.build(self.left("build"))):
                return
        try:
            getattr(self, name)()
        finally:
            self.report["seconds"][name] = round(time.time() - start, 1)
            self.report["clocks"][name] = [before, clocks()]
            self.write()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stage", choices=tuple(STAGES), help="one of the two (default: both)")
    parser.add_argument("--out", type=Path, default=ROOT / "python/benchmarks/results", help="folder of the results")
    parser.add_argument("--copy", type=Path, help="folder that gets a copy of the results whenever they are written")
    parser.add_argument("--seconds", type=float, help="of each stage (default: 185 and 520), where less is left")
    parser.add_argument("--no-build", action="store_true", help="use the library that is there")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run of this program")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "gpu_check: this machine has no GPU that PyTorch can use\n")
    if arguments.no_build and build_for_gpu.is_stale():
        parser.exit(1, "gpu_check: build-gpu/ was built from other sources; run build_for_gpu.py again\n")
    if arguments.no_build and arguments.device == "cuda" and (why := parts.why_no_kernels()):
        parser.exit(1, f"gpu_check: no library with CUDA kernels: {why}\n")
    return arguments


def stop(*_) -> None:
    stop_all()
    sys.exit(143)


def main() -> int:
    arguments = parse()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log_to(out / "gpu_check.log")
    signal.signal(signal.SIGTERM, stop)
    check = Check(arguments.device, out, arguments.copy, goes_on=arguments.stage == "full")
    try:
        for stage in [arguments.stage] if arguments.stage else list(STAGES):
            build = stage == "quick" and arguments.device == "cuda" and not arguments.no_build
            check.stage(stage, build, arguments.seconds)
    finally:
        stop_all()
        check.write()
        say(gpu_headlines.screen(check.report))
        say(f"written: {out / 'gpu_check.json'}, gpu_check.md and gpu_check.log")
    return int(bool(gpu_headlines.failures(check.report)))


if __name__ == "__main__":
    sys.exit(main())
