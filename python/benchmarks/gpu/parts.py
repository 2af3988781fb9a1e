"""The parts of gpu_check.py that run other programs: the build, pytest, compute-sanitizer, ncu, nvcc."""

import concurrent.futures
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import torch

from build_for_gpu import FOLDER as BUILT
from gpu.processes import ROOT, read_lines, run

BENCHMARKS = Path(__file__).resolve().parents[1]
TEST_FILES = (
    "tests/kernels/test_on_gpu.py",
    "tests/kernels/test_on_gpu_pyramid.py",
    "tests/kernels/test_on_gpu_device.py",
    "tests/kernels/test_on_gpu_gru.py",
)
# What a quick run tests, each in a separate process: the name, the files, the expression of -k.
QUICK_TESTS = {
    "kernels": (TEST_FILES[:2], "trace"),
    "pyramids": (TEST_FILES[1:2], "not trace and not graph and not same_bits"),
    "same bits": (TEST_FILES[:2], "same_bits and not graph"),
    "graphs": (TEST_FILES[:2], "graph"),
    "streams": (TEST_FILES[2:], "stream or device_of"),
}
# Tests that allocate most of the GPU's memory, so that no other test can run beside them.
LARGE = "2_to_31 or out_of_memory"
TEST_SILENCE_S = 20  # seconds for one test, before its process is ended
OURS = ["--kernel-regex", "kns=3pdb4cuda"]  # a part of the mangled names of namespace pdb::cuda
METRICS = ("Duration", "SM Frequency", "Registers Per Thread", "Dynamic Shared Memory Per Block", "Executed Ipc Active",
           "Compute (SM) Throughput", "Memory Throughput", "L1/TEX Hit Rate", "L2 Hit Rate", "No Eligible")  # fmt: skip


def environment() -> dict[str, str]:
    """The tree is imported as it is; where no library in it fits, with that of build-gpu/ if there is one."""
    folders = [ROOT, ROOT / "python", BENCHMARKS, *([BUILT] if BUILT.is_dir() else [])]
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])}


def worker(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this folder. Its `environment` must be given."""
    return [sys.executable, "-u", "-m", f"gpu.{name}", *arguments]


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}{'a' if major == 9 else ''}"


def toolkit() -> Path:
    """The CUDA toolkit of CUDA_HOME, of the nvcc on PATH, /usr/local/cuda, or a later one of torch's major version."""
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    folders = [Path(nvcc).resolve().parents[1]] if (nvcc := shutil.which("nvcc")) else []
    folders.append(Path("/usr/local/cuda"))
    folders += sorted(Path("/usr/local").glob(f"cuda-{str(torch.version.cuda).split('.')[0]}*"), reverse=True)
    return next((folder for folder in folders if (folder / "bin/nvcc").is_file()), folders[0])


def find_tool(name: str) -> str | None:
    folders = [toolkit() / "bin", *sorted(Path("/opt/nvidia").glob("*/*"), reverse=True)]  # where Nsight Compute may be
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))


def build(seconds: float) -> dict:
    """Only for the GPU of this machine."""
    # On PATH nvcc may be a script that calls another one, which setup.py finds.
    home = {} if shutil.which("nvcc") else {"CUDA_HOME": str(toolkit())}
    command = [sys.executable, str(BENCHMARKS / "build_for_gpu.py"), "--architecture", architecture()]
    return run(command, seconds, **home)


def why_no_kernels() -> str | None:
    """Why pdb_ext has no CUDA kernels here; None if it has."""
    program = "from pdb_ext import _library as l; "
    program += "print('cuda' in l.NATIVE_DEVICES or l.why_not_native or 'built without CUDA')"
    result = run([sys.executable, "-c", program], 60, quiet=True, **environment())
    return None if result["output"].strip() == "True" else result["output"].strip()


def pytest(files: tuple, expression: str, device: str, seconds: float, prefix: str = "", workers: int = 0) -> dict:
    """Tests that may hang. The process of one that does is ended, and replaced by another if there are workers."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-o", f"faulthandler_timeout={TEST_SILENCE_S}"]
    if int(importlib.metadata.version("pytest").split(".")[0]) >= 9:
        command += ["-o", "faulthandler_exit_on_timeout=true"]
    elif importlib.util.find_spec("pytest_timeout"):
        command += [f"--timeout={TEST_SILENCE_S + 5}", "--timeout-method=thread"]
    command += [*_processes(workers), "--slow", *files, "-k", expression]
    passing = (0, 5) if device == "cpu" else (0,)  # 5: all were skipped
    return run(command, seconds, passing, prefix, **environment())


def _processes(workers: int) -> list[str]:
    """Options of pytest. A worker that is lost is replaced, as often as the time allows."""
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(workers), *(["--max-worker-restart=100"] if workers else [])]


def quick_tests(device: str, seconds: float) -> dict[str, dict]:
    """All groups at once, so that none waits for the imports of another."""
    groups = {"streams": QUICK_TESTS["streams"]} if device == "cpu" else QUICK_TESTS
    workers = 1 if importlib.util.find_spec("xdist") else 0
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        results = {name: pool.submit(pytest, files, expression, device, seconds, f"[{name}] ", workers)
                   for name, (files, expression) in groups.items()}  # fmt: skip
        return {f"tests: {name}": result.result() for name, result in results.items()}


def all_tests(device: str, seconds: float) -> dict:
    """Every GPU test except the large ones, four at once."""
    files = TEST_FILES[:1] if device == "cpu" else TEST_FILES
    if importlib.util.find_spec("xdist"):
        return pytest(files, f"not ({LARGE})", device, seconds, workers=1 if device == "cpu" else 4)
    with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
        pending = [pool.submit(pytest, (file,), f"not ({LARGE})", device, seconds) for file in files]
        results = [result.result() for result in pending]
    return {
        "passed": all(result["passed"] for result in results), "late": any(result["late"] for result in results),
        "seconds": max(result["seconds"] for result in results), "output": "\n".join(r["output"] for r in results),
    }  # fmt: skip


def large_tests(device: str, seconds: float) -> dict:
    if device == "cpu":
        return not_run("a dry run")
    return pytest(TEST_FILES[2:], LARGE, device, seconds)


def not_run(why: str) -> dict:
    return {"passed": None, "late": False, "seconds": 0, "output": why}


def memcheck(device: str, seconds: float) -> dict:
    program = find_tool("compute-sanitizer")
    if program is None or device == "cpu":
        return not_run("no compute-sanitizer, or a dry run")
    tests = [sys.executable, "-m", "pytest", "-v", "-x", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=50"]
    tests += [*_processes(0), "--slow"]
    chosen = [TEST_FILES[0], "-k", "small_enough_for_compute_sanitizer and persistent and float16 and plain"]
    # PyTorch makes calls that CUDA refuses, and goes on: those are not errors in a kernel.
    options = ["--tool", "memcheck", "--report-api-errors", "no", *OURS, "--error-exitcode", "9"]
    command = [program, *options, *tests, *chosen]
    result = run(command, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1", **environment())
    # Some virtual machines do not let it use the GPU.
    return result | ({"passed": None} if "Device not supported" in result["output"] else {})


def ncu(device: str, seconds: float, out: Path) -> dict:
    """The first two persistent kernels of a training step, reported in gpu_ncu.ncu-rep and, as text, in gpu_ncu.txt."""
    program, report = find_tool("ncu"), out / "gpu_ncu.ncu-rep"
    if program is None or device == "cpu":
        return not_run("no ncu, or a dry run")
    choice = ["--set", "full", "-k", "regex:persistent_kernel", "-c", "2"]
    choice += ["--clock-control", "none", "--cache-control", "none"]  # as found, and warm as in use
    step = worker("profile", "--once")
    result = run([program, *choice, "-f", "-o", str(report.with_suffix("")), *step], seconds, **environment())
    if not report.exists():
        forbidden = any(word in result["output"] for word in ("ERR_NVGPUCTRPERM", "LibraryNotLoaded"))
        return result | ({"passed": None} if forbidden else {})
    text = run([program, "--import", str(report), "--page", "details"], 30, quiet=True)["output"]
    (out / "gpu_ncu.txt").write_text(text)
    return result | {"metrics": ncu_metrics(text)}


def ncu_metrics(text: str) -> dict[str, dict[str, str]]:
    """Forward and Backward -> the headline metrics, each with its unit."""
    result: dict[str, dict[str, str]] = {}
    kernel = None
    for line in text.splitlines():
        if "persistent_kernel" in line:
            kernel = "Backward" if "Backward" in line else "Forward"
        for metric in METRICS:
            found = re.match(rf"\s+{re.escape(metric)}\s+(\S.*?)?\s+([\d.,]+)\s*$", line)
            if found and kernel:
                result.setdefault(kernel, {}).setdefault(metric, f"{found[2]} {found[1] or ''}".strip())
    return result


def floors(device: str, seconds: float, out: Path) -> dict:
    """What floor.py has written of its results."""
    command = worker("floor", "--device", device, "--out", str(out))
    nvcc = find_tool("nvcc")
    if nvcc and device == "cuda":
        command += ["--nvcc", nvcc, "--architecture", f"sm_{architecture().replace('.', '')}"]
    out.unlink(missing_ok=True)
    result = run(command, seconds, **environment())
    return read_lines(out)[-1] if read_lines(out) else {"error": result["output"].strip()[-300:]}
