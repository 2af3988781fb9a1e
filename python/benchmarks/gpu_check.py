"""Everything that needs a GPU, in one command: `python python/benchmarks/gpu_check.py [--out FOLDER] [--minutes M]`.

Builds pdb_ext in place for the GPU of this machine, runs tests/test_cuda.py (parity, gradients, graphs, streams,
determinism, limits), its small cases under compute-sanitizer where that exists, and then the benchmark: every contestant
is checked against float64 before it is timed. Writes gpu_check.json and gpu_check.md, also when something fails, and
exits with 1 then. No measured table is in the repository until this has run on a GPU.
"""

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
ROWS = [  # name, T, N, channels, side, dilations, both directions and Eq. 5; the most important first
    ("PDB module of the paper", 5, 1, 32, 60, (1, 2), True),
    ("PDB module, T=20", 20, 1, 32, 60, (1, 2), True),
    ("nowcasting", 10, 8, 64, 64, (1,), False),
    ("nowcasting, C=128", 10, 8, 128, 64, (1,), False),
    ("PDB module, T=80", 80, 1, 32, 60, (1, 2), True),
    *((f"PDB module, N={N}, {side}x{side}", 5, N, 32, side, (1, 2), True)
      for N in (1, 4, 16) for side in (30, 60, 120) if (N, side) != (1, 60)),
]  # fmt: skip
URGENT_ROWS = 4  # measured before torch.compile joins, which takes a minute or more for every shape
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ERROR_LIMIT = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}  # relative RMS; guards the timing only


def run(command: list[str], **environment: str) -> dict:
    """Runs a command in the repository; keeps the end of what it prints."""
    begin = time.time()
    print("$", " ".join(command), flush=True)
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = process.stdout[-4000:]
    print(output, flush=True)
    return {"passed": process.returncode == 0, "seconds": round(time.time() - begin, 1), "output": output}


def build() -> dict:
    major, minor = torch.cuda.get_device_capability()
    architecture = f"{major}.{minor}{'a' if major == 9 else ''}"
    return run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], PDB_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST=architecture
    )


def checks() -> dict[str, dict]:
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    results = {"tests": run(pytest, **paths)}
    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        if sanitizer is None:
            results[tool] = {"passed": None, "output": "compute-sanitizer was not found"}
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *pytest, "-k", "compute_sanitizer"]
        results[tool] = run(command, PYTORCH_NO_CUDA_MEMORY_CACHING="1", **paths)
    return results


def machine() -> dict:
    query = "--query-gpu=driver_version"
    driver = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True).stdout
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver.strip().split("\n")[0],
        "cuda": torch.version.cuda,
        "torch": str(torch.__version__),
        "commit": commit.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def graphed(function):
    """The function captured by hand in a CUDA graph: a call replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay():
        graph.replay()
        return result

    return replay


def contestants(step, workload, compiled: bool) -> dict:
    """Name -> function that computes the workload."""
    import peers

    layers = peers.eager_peers() | {"pdb_ext": peers.ours}
    functions = {name: lambda layer=layer: step(workload, layer) for name, layer in layers.items()}
    if compiled:
        for mode in ("default", "max-autotune"):
            layer = torch.compile(peers.naive, dynamic=False, mode=mode)
            functions[f"compiled naive, {mode}"] = lambda layer=layer: step(workload, layer)
    functions["naive in a CUDA graph"] = graphed(functions["naive eager"])
    functions["hoisted in a CUDA graph"] = graphed(functions["hoisted"])
    functions["pdb_ext in a CUDA graph"] = graphed(functions["pdb_ext"])
    return functions


def time_interleaved(functions: dict, seconds: float, samples: int = 50) -> dict[str, list[float]]:
    """Milliseconds by CUDA events: rounds that run every contestant once, after two warm-ups each."""
    for function in functions.values():
        function()
        function()
    torch.cuda.synchronize()
    times, start = {name: [] for name in functions}, time.time()
    while len(times["pdb_ext"]) < samples and (time.time() - start < seconds or len(times["pdb_ext"]) < 5):
        for name, function in functions.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            function()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end))
    return times


def measure(row: tuple, precision: str, training: bool, compiled: bool, seconds: float) -> dict:
    import measure as measuring
    import peers
    from cpu import Workload

    step = Workload.training if training else Workload.inference
    workload, exact = Workload(*row, dtype=PRECISIONS[precision]), Workload(*row, dtype=torch.float64)
    for each in (workload, exact):
        each.x = each.x.detach().cuda().requires_grad_()
        for groups in (each.layers, each.merges):
            groups[:] = [tuple(t.detach().cuda().requires_grad_() for t in group) for group in groups]
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    functions = contestants(step, workload, compiled)
    measuring.check(functions, step(exact, peers.naive), ERROR_LIMIT[precision])
    times = time_interleaved(functions, seconds)
    ours = [name for name in times if name.startswith("pdb_ext")]
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    return {
        "times_ms": times,
        "median_ms": medians,
        "ours_ms": min(medians[name] for name in ours),
        "best_peer": min((name for name in times if name not in ours), key=medians.get),
    }


def jobs() -> list[tuple]:
    """Arguments of measure(), in the order of their importance."""
    plain = [(row, precision, training, False) for row in ROWS for precision in PRECISIONS for training in (False, True)]
    urgent = URGENT_ROWS * len(PRECISIONS) * 2
    compiled = [(ROWS[0], precision, training, True) for precision in ("bfloat16", "tf32") for training in (False, True)]
    return plain[:urgent] + compiled + plain[urgent:]


def benchmark(deadline: float) -> list[dict]:
    """All jobs; those that are left at the deadline are recorded as not measured."""
    results = []
    for row, precision, training, compiled in jobs():
        result = {
            "workload": row[0] + (", with torch.compile" if compiled else ""),
            "precision": precision,
            "pass": "forward and backward" if training else "forward",
        }
        try:
            late = {"error": "not measured: the time was up"}
            result |= late if time.time() > deadline else measure(row, precision, training, compiled, seconds=1.0)
        except (AssertionError, RuntimeError) as error:
            result["error"] = str(error).split("\n")[0]
        results.append(result)
        print(table([result])[-1], flush=True)
        torch.cuda.empty_cache()
    return results


def table(results: list[dict]) -> list[str]:
    lines = ["| workload | precision | pass | pdb_ext ms | naive eager ms | best peer ms | over naive | over best peer |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for result in results:
        head = f"| {result['workload']} | {result['precision']} | {result['pass']} |"
        if "error" in result:
            lines.append(f"{head} {result['error']} | | | | |")
            continue
        ours, medians, peer = result["ours_ms"], result["median_ms"], result["best_peer"]
        naive = medians["naive eager"]
        lines.append(
            f"{head} {ours:.3f} | {naive:.3f} | {medians[peer]:.3f} ({peer}) | {naive / ours:.1f}x |"
            f" {medians[peer] / ours:.1f}x |"
        )
    return lines


def write(folder: Path, report: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    words = {True: "passed", False: "FAILED", None: "not run"}
    lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in report["machine"].items()), ""]
    lines += [f"- {name}: {words[check['passed']]}" for name, check in report["checks"].items()]
    lines += ["", "Medians; pdb_ext is the faster of eager and CUDA graph.", "", *table(report["benchmark"])]
    (folder / "gpu_check.md").write_text("\n".join(lines) + "\n")
    print(f"written: {folder / 'gpu_check.json'} and gpu_check.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "python/benchmarks/results", help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="no new measurement starts after this time")
    parser.add_argument("--no-build", action="store_true", help="use the library that is there")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "gpu_check: this machine has no GPU that PyTorch can use\n")
    deadline = time.time() + 60 * arguments.minutes
    report = {"machine": machine(), "checks": {}, "benchmark": []}
    if not arguments.no_build:
        report["checks"]["build"] = build()
    if all(check["passed"] for check in report["checks"].values()):
        report["checks"] |= checks()
        sys.path.insert(0, str(ROOT))  # the library that was just built
        report["benchmark"] = benchmark(deadline)
    write(arguments.out, report)
    failed = any(check["passed"] is False for check in report["checks"].values())
    return int(failed or any(not r["error"].startswith("not measured") for r in report["benchmark"] if "error" in r))


if __name__ == "__main__":
    sys.exit(main())
