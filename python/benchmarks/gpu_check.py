"""Everything that needs a GPU, in one command: `python python/benchmarks/gpu_check.py [--out FOLDER] [--minutes M]`.

Builds pdb_ext in place for the GPU of this machine, runs tests/test_cuda.py (parity of every path, gradients, graphs,
streams, determinism, limits), measures the floors and the benchmark, and runs small cases under compute-sanitizer where that
exists. Every part is a process of its own with its share of the time, and what a part does not use goes to the benchmark.
gpu_check.json and gpu_check.md are written after every part, and when this program is ended, so that nothing that was
measured is lost; exits with 1 if anything failed. No measured table is in the repository until this has run on a GPU.
`--device cpu` goes through all of it on a tiny workload, to test this program itself.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])}
# Seconds at most: with GRACE less than 9 minutes. The benchmark has what these leave of 8.5 minutes, 4 to 5 of them where
# there are 16 processors to build with.
SHARES = {"build": 250, "tests": 120, "floors": 30, "memcheck": 35, "racecheck": 35}
GRACE = 15  # seconds after the benchmark's time in which its last job may end


def run(command: list[str], seconds: float, passing: tuple[int, ...] = (0,), **environment: str) -> dict:
    """Runs a command in the repository for so long at most; keeps the end of what it prints.

    At the end of its time it is interrupted, so that pytest still says what has failed, and then killed. `late`: it was.
    """
    begin = time.time()
    print("$", " ".join(command), flush=True)
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, preexec_fn=hear_interrupts,
    )  # fmt: skip
    late = False
    try:
        output = process.communicate(timeout=max(seconds, 1))[0]
    except subprocess.TimeoutExpired:
        late, output = True, end(process) + f"\nended: its {seconds:.0f} s were up"
    except BaseException:  # this program itself is ended
        os.killpg(process.pid, signal.SIGKILL)
        raise
    output = output[-4000:]
    print(output, flush=True)
    passed = not late and process.returncode in passing
    return {"passed": passed, "late": late, "seconds": round(time.time() - begin, 1), "output": output}


def hear_interrupts() -> None:
    """In the new process: a shell's background job, as this may be one, ignores interrupts, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(process: subprocess.Popen) -> str:
    """What the process, and all that it has started, still print before they are gone."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}{'a' if major == 9 else ''}"


def toolkit() -> Path:
    """The CUDA toolkit: that of CUDA_HOME, of the nvcc on PATH, /usr/local/cuda, or a later one of torch's major version."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    folders = [Path(nvcc).resolve().parents[1]] if (nvcc := shutil.which("nvcc")) else []
    folders.append(Path("/usr/local/cuda"))
    folders += sorted(Path("/usr/local").glob(f"cuda-{str(torch.version.cuda).split('.')[0]}*"), reverse=True)
    return next((folder for folder in folders if (folder / "bin/nvcc").is_file()), folders[0])


def find_tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(toolkit() / "bin"))


def build() -> dict:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    # On PATH it may be a script that calls another one, which setup.py finds.
    home = {} if shutil.which("nvcc") else {"CUDA_HOME": str(toolkit())}
    return run(command, SHARES["build"], PDB_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST=architecture(), **home)


def tests(device: str) -> dict:
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=10", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    return run(command, SHARES["tests"], (0, 5) if device == "cpu" else (0,), **PATHS)  # 5: all were skipped


def sanitizer(tool: str) -> dict:
    program = find_tool("compute-sanitizer")
    if program is None:
        return {"passed": None, "seconds": 0, "output": "compute-sanitizer was not found"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    ours = ["--kernel-regex", "kns=3pdb4cuda"]  # a part of the mangled names of namespace pdb::cuda
    command = [program, "--tool", tool, *ours, "--error-exitcode", "9", *pytest, "-k", "compute_sanitizer"]
    result = run(command, SHARES[tool], PYTORCH_NO_CUDA_MEMORY_CACHING="1", **PATHS)
    # Some virtual machines do not let it at the GPU.
    return result | ({"passed": None} if "Device not supported" in result["output"] else {})


def floors(device: str, out: Path) -> dict:
    """What gpu_floor.py has written of its results."""
    command = [sys.executable, str(Path(__file__).with_name("gpu_floor.py")), "--device", device, "--out", str(out)]
    nvcc = find_tool("nvcc")
    if nvcc and device == "cuda":
        command += ["--nvcc", nvcc, "--architecture", f"sm_{architecture().replace('.', '')}"]
    out.unlink(missing_ok=True)
    result = run(command, SHARES["floors"], **PATHS)
    return read_lines(out)[-1] if out.exists() else {"error": result["output"].strip()[-300:]}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def benchmark(device: str, until: float, out: Path) -> list[dict]:
    """Runs gpu_benchmark.py to its end; begins it anew behind a job that ended it, or that took too long."""
    import gpu_benchmark

    jobs = gpu_benchmark.jobs() if device == "cuda" else gpu_benchmark.dry_jobs()
    out.unlink(missing_ok=True)
    results: list[dict] = []
    while len(results) < len(jobs):
        command = [sys.executable, str(Path(__file__).with_name("gpu_benchmark.py")), "--device", device]
        command += ["--out", str(out), "--start", str(len(results)), "--until", str(until)]
        process, before = run(command, max(until - time.time(), 0) + GRACE, **PATHS), len(results)
        results = read_lines(out)
        if len(results) == len(jobs):
            break
        if process["passed"] and len(results) > before:
            continue  # it has written why it ended
        late = process["late"]
        reason = "not measured: the time was up" if late else f"the process ended: {process['output'].strip()[-200:]}"
        ended = jobs[len(results) :] if late else jobs[len(results) : len(results) + 1]
        with out.open("a") as file:
            for job in ended:
                file.write(json.dumps(job.describe() | {"error": reason}) + "\n")
                results.append(job.describe() | {"error": reason})
    return results


def printed(*command: str) -> str:
    """What the program prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def machine(device: str) -> dict:
    driver = printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
    try:
        jax = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax = "not installed"
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "none: a dry run on the CPU, whose numbers mean nothing",
        "driver": driver or "unknown",
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "jax": jax,
        "commit": printed("git", "describe", "--always", "--dirty") or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def is_failure(result: dict) -> bool:
    """Whether a measurement went wrong, or one of our own contestants in it."""
    wrong = "error" in result and not result["error"].startswith("not measured")
    return wrong or any(name.startswith("pdb_ext") for name in result.get("failed", {}))


def go_through(arguments: argparse.Namespace, report: dict, write: Callable[[], None]) -> None:
    """All parts, one after the other, each written into the report as soon as it has ended."""
    device, out = arguments.device, arguments.out
    until = time.time() + 60 * arguments.minutes

    def check(name: str, result: dict) -> None:
        report["checks"][name] = result
        write()

    if device == "cuda" and not arguments.no_build:
        check("build", build())
        if not report["checks"]["build"]["passed"]:
            return
    check("tests", tests(device))
    report["floors"] = floors(device, out / "gpu_floor.jsonl")
    write()
    sanitizers = SHARES["memcheck"] + SHARES["racecheck"] if device == "cuda" else 0
    benchmark(device, until - sanitizers, out / "gpu_benchmark.jsonl")
    write()
    for tool in ("memcheck", "racecheck"):
        check(tool, sanitizer(tool))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "python/benchmarks/results", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="no new measurement starts after this time")
    parser.add_argument("--no-build", action="store_true", help="use the library that is there")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run of this program")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "gpu_check: this machine has no GPU that PyTorch can use\n")
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = arguments.out / "gpu_benchmark.jsonl"
    lines.unlink(missing_ok=True)
    report = {"machine": machine(device), "checks": {}, "floors": {}, "benchmark": []}

    def write() -> None:
        import gpu_report

        report["benchmark"] = read_lines(lines)
        gpu_report.write(arguments.out, report)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        go_through(arguments, report, write)
    finally:
        write()
    print(f"written: {arguments.out / 'gpu_check.json'} and gpu_check.md")
    failed = any(result["passed"] is False for result in report["checks"].values())
    return int(failed or any(map(is_failure, report["benchmark"])))


if __name__ == "__main__":
    sys.exit(main())
