"""Everything that needs a GPU, in one command: `python python/benchmarks/gpu_check.py [--out FOLDER] [--minutes M]`.

Builds pdb_ext in place for the GPU of this machine, runs tests/test_cuda.py (parity of every path, gradients, graphs,
streams, determinism, limits), measures the floors and the benchmark, and runs small cases under compute-sanitizer where that
exists. Every part has its share of the time, and what a part does not use goes to the benchmark. gpu_check.json and
gpu_check.md are written after every part, so that nothing that was measured is lost; exits with 1 if anything failed. No
measured table is in the repository until this has run on a GPU. `--device cpu` goes through all of it on a tiny workload, to
test this program itself.
"""

import argparse
import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])])}
# Seconds. The benchmark has at least what these leave of 8.5 minutes, 2 minutes.
SHARES = {"build": 170, "tests": 120, "floors": 30, "memcheck": 35, "racecheck": 35}
GRACE = 15  # seconds after the benchmark's time in which its last job may end


def run(command: list[str], seconds: float, passing: tuple[int, ...] = (0,), **environment: str) -> dict:
    """Runs a command in the repository for so long at most; keeps the end of what it prints."""
    begin = time.time()
    print("$", " ".join(command), flush=True)
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, passed = process.communicate(timeout=max(seconds, 1))[0], process.returncode in passing
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # compilers and workers, too
        output, passed = process.communicate()[0] + f"\nended: its {seconds:.0f} s were up", None
    output = output[-4000:]
    print(output, flush=True)
    return {"passed": passed, "seconds": round(time.time() - begin, 1), "output": output}


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}{'a' if major == 9 else ''}"


def find_tool(name: str) -> str | None:
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


def build() -> dict:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return run(command, SHARES["build"], PDB_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST=architecture())


def tests(device: str) -> dict:
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=10", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    return run(command, SHARES["tests"], (0, 5) if device == "cpu" else (0,), **PATHS)  # 5: all were skipped


def sanitizer(tool: str) -> dict:
    program = find_tool("compute-sanitizer")
    if program is None:
        return {"passed": None, "seconds": 0, "output": "compute-sanitizer was not found"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    command = [program, "--tool", tool, "--error-exitcode", "9", *pytest, "-k", "compute_sanitizer"]
    return run(command, SHARES[tool], PYTORCH_NO_CUDA_MEMORY_CACHING="1", **PATHS)


def floors(device: str) -> dict:
    import gpu_floor

    result = {"matrix_rates": gpu_floor.matrix_rates(device, 8192 if device == "cuda" else 64)}
    nvcc = find_tool("nvcc")
    if device == "cpu" or nvcc is None:
        return result | {"flag_latency": f"not measured ({'dry run' if device == 'cpu' else 'no nvcc'})"}
    try:
        return result | {"flag_latency_s": gpu_floor.flag_latency(nvcc, f"sm_{architecture().replace('.', '')}")}
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return result | {"flag_latency": f"not measured ({error})"}


def benchmark(device: str, until: float, out: Path) -> list[dict]:
    """Runs gpu_benchmark.py to its end; begins it anew behind a job that ended it, or that took too long."""
    import gpu_benchmark

    jobs = gpu_benchmark.jobs() if device == "cuda" else gpu_benchmark.dry_jobs()
    out.unlink(missing_ok=True)
    results: list[dict] = []
    while len(results) < len(jobs):
        command = [sys.executable, str(Path(__file__).with_name("gpu_benchmark.py")), "--device", device]
        command += ["--out", str(out), "--start", str(len(results)), "--until", str(until)]
        process = run(command, max(until - time.time(), 0) + GRACE, **PATHS)
        results = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        if len(results) == len(jobs):
            break
        late = process["passed"] is None
        reason = "not measured: the time was up" if late else f"the process ended: {process['output'].strip()[-200:]}"
        ended = jobs[len(results) :] if late else jobs[len(results) : len(results) + 1]
        with out.open("a") as file:
            for job in ended:
                file.write(json.dumps(job.describe() | {"error": reason}) + "\n")
                results.append(job.describe() | {"error": reason})
    return results


def machine(device: str) -> dict:
    driver = "none"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip().split("\n")[0]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    jax = importlib.util.find_spec("jax")
    return {
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "none: a dry run on the CPU, whose numbers mean nothing",
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "jax": __import__("jax").__version__ if jax else "not installed",
        "commit": commit.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def is_failure(result: dict) -> bool:
    return "error" in result and not result["error"].startswith("not measured")


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
    until = time.time() + 60 * arguments.minutes
    report = {"machine": machine(device), "checks": {}, "floors": {}, "benchmark": []}

    def write() -> None:
        import gpu_report

        gpu_report.write(arguments.out, report)

    def check(name: str, result: dict) -> None:
        report["checks"][name] = result
        write()

    if device == "cuda" and not arguments.no_build:
        check("build", build())
    if all(result["passed"] for result in report["checks"].values()):
        sys.path.insert(0, str(ROOT))  # the library that was just built
        check("tests", tests(device))
        report["floors"] = floors(device)
        write()
        sanitizers = SHARES["memcheck"] + SHARES["racecheck"] if device == "cuda" else 0
        report["benchmark"] = benchmark(device, until - sanitizers, arguments.out / "gpu_benchmark.jsonl")
        write()
        for tool in ("memcheck", "racecheck"):
            check(tool, sanitizer(tool))
    print(f"written: {arguments.out / 'gpu_check.json'} and gpu_check.md")
    failed = any(result["passed"] is False for result in report["checks"].values())
    return int(failed or any(map(is_failure, report["benchmark"])))


if __name__ == "__main__":
    sys.exit(main())
