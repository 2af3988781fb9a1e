"""The GPU check without a GPU: every part of python/benchmarks/gpu_check.py runs on the CPU, and its promises hold."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "python/benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python"), *sys.path])}


def test_dry_run(tmp_path):
    """Builds nothing and times a tiny module, but goes through every kind of measurement, check and table."""
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["machine"].keys() >= {"gpu", "driver", "cuda", "torch", "commit", "date"}
    assert report["checks"]["tests"]["passed"]
    groups = {"eager": 13, "torch.compile": 5, "jax": 5}
    if importlib.util.find_spec("jax") is None:
        del groups["jax"]
    for group, contestants in groups.items():
        results = [r for r in report["benchmark"] if r["group"] == group]
        assert [r["pass"] for r in results] == ["forward", "forward and backward"]
        assert all(len(r["median_ms"]) == contestants and min(r["median_ms"].values()) > 0 for r in results)
    (memory,) = (r for r in report["benchmark"] if r["group"] == "memory")
    assert "pdb_ext, recompute_gates" in memory["peak_bytes"]
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| tiny PDB module | tf32 | forward and backward |" in text and "numbers mean nothing" in text


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.returncode == 1 and result.stderr == "gpu_check: this machine has no GPU that PyTorch can use\n"


def test_the_jobs_cover_the_issue_and_begin_with_the_paper():
    import gpu_benchmark

    jobs = gpu_benchmark.jobs()
    assert len(set(jobs)) == len(jobs)
    first = [job.describe() for job in jobs[:4]]
    assert {job["workload"] for job in first} == {"PDB module of the paper"}
    eager = {(job.row, job.precision, job.training) for job in jobs if job.group == "eager"}
    rows = {row for row, _, _ in eager}
    assert len(eager) == len(rows) * 4 * 2
    pyramid = {(row.T, row.N, row.side) for row in rows if row.pyramid}
    assert pyramid == {(T, 1, 60) for T in (5, 20, 80)} | {(5, N, side) for N in (1, 4, 16) for side in (30, 60, 120)}
    assert {(row.N, row.T, row.channels, row.side) for row in rows if not row.pyramid} == {(8, 10, 64, 64), (8, 10, 128, 64)}


FAKE = """
import argparse, json, os, time
parser = argparse.ArgumentParser()
for name in ("device", "out", "start", "until"): parser.add_argument("--" + name)
arguments = parser.parse_args()
for number, job in enumerate({jobs!r}):
    if number < int(arguments.start): continue
    if number == {crash}: os.kill(os.getpid(), 11)
    if number == {stop} and number != int(arguments.start): break
    if number == {hang}: time.sleep(600)
    with open(arguments.out, "a") as file: file.write(json.dumps(job | {{"number": number}}) + "\\n")
"""


def run_fake(monkeypatch, tmp_path, seconds, crash=-1, hang=-1, stop=-1):
    """gpu_check.benchmark with a stand-in for gpu_benchmark.py that crashes or hangs at a job, or ends itself before it."""
    import gpu_benchmark
    import gpu_check

    jobs = [job.describe() for job in gpu_benchmark.dry_jobs()]
    (tmp_path / "gpu_benchmark.py").write_text(FAKE.format(jobs=jobs, crash=crash, hang=hang, stop=stop))
    monkeypatch.setattr(gpu_check, "__file__", str(tmp_path / "gpu_check.py"))
    monkeypatch.setattr(gpu_check, "GRACE", 1)
    return gpu_check.benchmark("cpu", time.time() + seconds, tmp_path / "results.jsonl")


def test_a_crash_costs_one_measurement(monkeypatch, tmp_path):
    results = run_fake(monkeypatch, tmp_path, seconds=200, crash=2)
    assert [r.get("number") for r in results] == [0, 1, None, *range(3, len(results))]
    assert results[2]["error"].startswith("the process ended")


def test_a_process_that_lost_its_gpu_is_followed_by_another(monkeypatch, tmp_path):
    results = run_fake(monkeypatch, tmp_path, seconds=200, stop=3)
    assert [r.get("number") for r in results] == list(range(len(results)))


def test_what_hangs_is_ended_in_time_and_nothing_is_lost(monkeypatch, tmp_path):
    begin = time.time()
    results = run_fake(monkeypatch, tmp_path, seconds=10, hang=3)
    assert time.time() - begin < 60
    assert [r.get("number") for r in results[:3]] == [0, 1, 2]
    assert all(r["error"] == "not measured: the time was up" for r in results[3:])


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_who_is_ended_still_says_what_it_knows(before):
    """A shell's background job ignores interrupts."""
    import gpu_check

    program = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('one has failed so far')"
    usual = signal.signal(signal.SIGINT, before)
    try:
        result = gpu_check.run([sys.executable, "-c", program], seconds=3)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert result["late"] and result["passed"] is False
    assert "one has failed so far" in result["output"] and "ended: its 3 s were up" in result["output"]


def test_a_contestant_that_fails_or_is_wrong_costs_no_other(monkeypatch):
    import gpu_benchmark
    import gpu_report
    import gpu_workload

    everyone = gpu_workload.eager_contestants

    def with_faults(workload, training, device):
        def not_ready():
            raise RuntimeError("cannot be captured\nin detail")

        right = everyone(workload, training, device)["pdb_ext"]()
        return {
            "wrong": lambda: lambda: [2 * t for t in right()],
            **everyone(workload, training, device),
            "pdb_ext in a CUDA graph": not_ready,
        }

    monkeypatch.setattr(gpu_workload, "eager_contestants", with_faults)
    job = gpu_benchmark.dry_jobs()[0]
    result = job.describe() | gpu_benchmark.measure(job, "cpu", seconds=0.01)
    assert result["failed"].keys() == {"wrong", "pdb_ext in a CUDA graph"}
    assert result["failed"]["pdb_ext in a CUDA graph"] == "cannot be captured"
    assert "relative RMS error 1" in result["failed"]["wrong"]
    assert {"naive eager", "pdb_ext", "hoisted in a CUDA graph"} <= result["median_ms"].keys()
    (line,) = (line for line in gpu_report.failed_contestants([result]) if "cannot be captured" in line)
    assert line == "| tiny PDB module | tf32 | forward | pdb_ext in a CUDA graph | cannot be captured |"
    del result["median_ms"]["pdb_ext"]
    (row,) = gpu_report.speed_rows([result], {})
    assert "pdb_ext or naive eager failed" in row["error"]


def test_only_our_own_failures_are_failures():
    import gpu_check

    assert gpu_check.is_failure({"error": "the process ended: Segmentation fault"})
    assert gpu_check.is_failure({"failed": {"pdb_ext in a CUDA graph": "wrong"}, "median_ms": {}})
    assert not gpu_check.is_failure({"failed": {"torch.compile, default": "no Triton"}, "median_ms": {}})
    assert not gpu_check.is_failure({"error": "not measured: the time was up"})


def test_what_is_known_is_written_when_the_check_is_ended(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu", "--out", str(tmp_path)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        lines = iter(process.stdout.readline, b"")
        assert any(b"gpu_floor.py" in line for line in lines)  # the tests have run
        process.terminate()
        process.communicate()
    assert process.returncode == 143
    assert json.loads((tmp_path / "gpu_check.json").read_text())["checks"]["tests"]["passed"]


def test_the_table_takes_ratios_within_a_group():
    import gpu_report

    head = {"workload": "w", "precision": "bfloat16", "pass": "forward", "flops": 1e9, "depth": 10}
    eager = {"naive eager": 40.0, "hoisted": 30.0, "pdb_ext": 12.0, "pdb_ext in a CUDA graph": 10.0}
    eager |= {f"pdb_ext, path {path}, in a CUDA graph": 9.0 + i for i, path in enumerate(("step", "persistent", "aten"))}
    # Measured while the GPU was twice as slow.
    compiled = {"naive eager": 80.0, "torch.compile, default": 50.0, "pdb_ext": 20.0}
    groups = [head | {"group": "eager", "median_ms": eager}, head | {"group": "torch.compile", "median_ms": compiled}]
    groups.append(head | {"group": "jax", "error": "not measured: JAX is not installed"})
    floors = {"matrix_rates": {"bfloat16": 1e14}, "flag_latency_s": 1e-6}
    (row,) = gpu_report.speed_rows(groups, floors)
    assert row["ours_ms"] == 10.0 and row["over_naive"] == 4.0
    assert row["best_peer"] == "torch.compile, default" and row["over_best_peer"] == 2.5
    assert row["floor_ms"] == pytest.approx(0.01) and row["paths_ms"] == {"step": 9.0, "persistent": 10.0, "aten": 11.0}
    line = gpu_report.speed_table([row])[-1]
    assert "| 10.000 | 9.000 / 10.000 / 11.000 | 40.000 | 4.0x | torch.compile, default, 50.000 ms | 2.50x |" in line
    assert "1000.0x of 0.010 ms" in line
    (failed,) = gpu_report.speed_rows([head | {"group": "eager", "error": "not measured: the time was up"}], {})
    assert "not measured" in gpu_report.speed_table([failed])[-1]


def test_floor_is_the_larger_of_arithmetic_and_latency():
    import gpu_floor

    assert gpu_floor.floor_ms(1e12, 10, 1e14, 1e-6) == pytest.approx(10.0)
    assert gpu_floor.floor_ms(1e9, 100, 1e14, 1e-6) == pytest.approx(0.1)
    assert gpu_floor.floor_ms(1e9, 100, 1e14, None) == pytest.approx(0.01)


def test_jax_computes_the_same():
    pytest.importorskip("jax")
    import gpu_workload
    import jax_peers
    from measure import relative_error

    workload, exact = gpu_workload.workloads(gpu_workload.TINY, "float32", "cpu")
    run, convert = jax_peers.contestant(workload, True, "float32", unroll=False)
    for ours, value in zip(convert(run()), exact, strict=True):
        assert relative_error(ours, value) < 1e-5
