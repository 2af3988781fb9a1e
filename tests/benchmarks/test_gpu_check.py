"""The GPU check without a GPU: every part of python/benchmarks/gpu_check.py runs on the CPU, and its promises hold."""

import importlib.metadata
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

import pdb_ext
from helpers.paths import BENCHMARKS, ROOT

CHECK = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu"]


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python"), *sys.path])}


def test_dry_run(tmp_path):
    """Both stages: builds nothing and times a tiny module, but goes through every kind of measurement, check and table."""
    (tmp_path / "copy").mkdir()
    command = [*CHECK, "--out", str(tmp_path), "--copy", str(tmp_path / "copy")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["machines"].keys() == report["seconds"].keys() == report["clocks"].keys() == {"quick", "full"}
    assert report["machines"]["full"].keys() >= {"gpu", "driver", "cuda", "torch", "commit", "date"}
    assert report["checks"]["tests"]["passed"] and report["checks"]["tests: streams"]["passed"]
    assert report["checks"]["memcheck"]["passed"] is None and report["checks"]["ncu"]["passed"] is None
    assert len(report["answers"]) == 10 and all(answer["passed"] for answer in report["answers"].values())
    assert report["profile"]["bfloat16 | forward"]["kernels"]
    contestants = {"eager": 13, "cudnn.benchmark": 10, "max-autotune": 3, "jax": 4, "memory": 8}
    for result_of_job in report["benchmark"].values():
        if result_of_job["group"] == "jax" and importlib.util.find_spec("jax") is None:
            assert result_of_job["error"].startswith("not measured")
            continue
        found = result_of_job.get("times") or result_of_job["peak_bytes"]
        assert len(found) == contestants[result_of_job["group"]] and "failed" not in result_of_job
    assert {r["group"] for r in report["benchmark"].values()} == contestants.keys()
    assert report["measured"]["tiny PDB module | tf32 | forward | naive eager | wall ms"] > 0
    text = (tmp_path / "gpu_check.md").read_text()
    assert text == (tmp_path / "copy/gpu_check.md").read_text()
    assert "| tiny PDB module | tf32 | forward and backward |" in text and "numbers mean nothing" in text
    last = result.stdout[result.stdout.rindex("=" * 100) :]
    assert "nothing failed" in last and "naive eager in a CUDA graph" in last


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.returncode == 1 and result.stderr == "gpu_check: this machine has no GPU that PyTorch can use\n"


def test_the_jobs_cover_the_issue_and_begin_with_the_paper():
    import gpu_jobs

    quick, full = gpu_jobs.jobs("quick", "cuda"), gpu_jobs.jobs("full", "cuda")
    keys = [job.key for job in (*quick, *full)]
    assert len(set(keys)) == len(keys), "full does not repeat what quick measured"
    assert {job.row.name for job in quick} == {"PDB module of the paper"}
    assert [job.group for job in quick] == [
        *4 * ["eager"], *4 * ["cudnn.benchmark"], *2 * ["torch.compile"], "max-autotune"
    ]  # fmt: skip
    eager = {(job.row, job.precision, job.training) for job in (*quick, *full) if job.group == "eager"}
    rows = {row for row, _, _ in eager}
    assert len(eager) == len(rows) * 4 * 2
    pyramid = {(row.T, row.N, row.side) for row in rows if row.pyramid}
    assert pyramid == {(T, 1, 60) for T in (5, 20, 80)} | {(5, N, side) for N in (1, 4, 16) for side in (30, 60, 120)}
    assert {(row.N, row.T, row.channels, row.side) for row in rows if not row.pyramid} == {
        (8, 10, 64, 64),
        (8, 10, 128, 64),
    }


# Stands in for a worker: "a", "b" and "c" are its jobs, of two contestants each. ACT says what which contestant does to it.
FAKE = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--jobs", nargs="+")
parser.add_argument("--without", nargs="*", default=[])
arguments = parser.parse_args()
def tell(line):
    with open(arguments.out, "a") as file: file.write(json.dumps(line) + "\\n")
for key in arguments.jobs:
    tell({"trying": None})
    for name in {"one", "two", None} - set(arguments.without):
        tell({"trying": name})
        act = ACT.get((key, name))
        if act == "crash": os.kill(os.getpid(), 11)
        if act == "hang": time.sleep(600)
        if act == "lose the GPU": sys.exit("two: an illegal memory access")
    tell({"key": key})
    if " | " not in key: arguments.without = []
    if ACT.get(key) == "leave": break
"""


def run_fake(tmp_path, act, seconds=100.0, silence=1.5, keys=("a", "b", "c")):
    import gpu_processes

    (tmp_path / "fake.py").write_text(FAKE.replace("ACT", repr(act)))
    results, command = [], [sys.executable, "-S", str(tmp_path / "fake.py")]
    jobs = dict.fromkeys(keys, silence)
    gpu_processes.run_jobs(command, jobs, tmp_path / "lines.jsonl", time.time() + seconds, results.append)
    assert [result["key"] for result in results] == list(keys)
    return results


@pytest.mark.parametrize(
    "act, why", [("crash", "-11"), ("hang", "no news for 2 s"), ("lose the GPU", "illegal memory")]
)
def test_a_contestant_that_ends_its_process_costs_itself_alone(tmp_path, act, why):
    a, b, c = run_fake(tmp_path, {("b", "two"): act}, silence=1.6)
    assert a == {"key": "a"} and c == {"key": "c"}
    assert b["failed"].keys() == {"two"} and why in b["failed"]["two"] and "error" not in b


def test_a_contestant_that_ends_its_process_is_not_tried_again_on_the_same_workload(tmp_path):
    """Were it, every job would cost as many starts as there are such contestants."""
    keys = ("a | 1", "a | 2", "b | 1")
    first, second, other = run_fake(tmp_path, {(key, "two"): "crash" for key in keys[:2]}, keys=keys)
    assert first["failed"] == second["failed"] and "-11" in second["failed"]["two"] and other == {"key": "b | 1"}
    import gpu_worker

    seen = {}

    def run(key, device, teller):
        seen[key] = set(teller.without)
        if key == keys[-1]:
            raise SystemExit(0)
        return {}

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(
            sys, "argv", ["", "--device", "cpu", "--out", str(tmp_path / "out"), "--without", "two", "--jobs", *keys]
        )
        gpu_worker.serve("", run)
    assert seen == {"a | 1": {"two"}, "a | 2": {"two"}, "b | 1": set()}


LOSING = """
import pytest, torch

def lose(): raise RuntimeError("CUDA error: device-side assert triggered")

def test_before(): pass
def test_culprit(monkeypatch): torch.cuda.is_initialized, torch.cuda.synchronize = (lambda: True), lose
@pytest.mark.parametrize("i", range(20))
def test_behind(i): assert not torch.cuda.is_initialized()
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_that_loses_the_gpu_fails_no_other(tmp_path, workers):
    """Alone it ends the run; where there are workers, another one goes on."""
    if workers and importlib.util.find_spec("xdist") is None:
        pytest.skip("needs pytest-xdist")
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_losing.py").write_text(LOSING)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(["-n", "1"] if workers else []),
        str(tmp_path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    if workers:
        assert (
            result.returncode == 1
            and "1 failed, 22 passed" in result.stdout
            and "crashed while running" in result.stdout
        )
    else:
        assert (
            result.returncode == 3
            and "2 passed" in result.stdout
            and "test_culprit: the GPU cannot be" in result.stdout
        )


@pytest.mark.parametrize("act", ["crash", "hang"])
def test_a_job_that_ends_its_process_costs_itself_alone(tmp_path, act):
    a, b, c = run_fake(tmp_path, {("b", None): act})
    assert a == {"key": "a"} and c == {"key": "c"} and b["error"].startswith(("the process ended", "hung"))


def test_a_process_that_lost_its_gpu_is_followed_by_another(tmp_path):
    assert run_fake(tmp_path, {"a": "leave"}) == [{"key": "a"}, {"key": "b"}, {"key": "c"}]


def test_what_hangs_is_ended_in_time_and_nothing_is_lost(tmp_path):
    begin = time.time()
    a, b, c = run_fake(tmp_path, {("b", "one"): "hang"}, seconds=1.5, silence=100)
    assert time.time() - begin < 30
    assert a == {"key": "a"} and b["error"] == c["error"] == "not measured: the time was up"


def test_a_worker_that_cannot_begin_is_asked_once(tmp_path):
    import gpu_processes

    results = []
    command = [sys.executable, "-c", "raise SystemExit('pdb_ext has no CUDA kernels here')"]
    gpu_processes.run_jobs(command, {"a": 1, "b": 1}, tmp_path / "lines", time.time() + 60, results.append)
    assert [result["key"] for result in results] == ["a", "b"] and all("no CUDA kernels" in r["error"] for r in results)


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_who_is_ended_still_says_what_it_knows(before):
    """A shell's background job ignores interrupts."""
    import gpu_processes

    program = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('one has failed so far')"
    usual = signal.signal(signal.SIGINT, before)
    try:
        result = gpu_processes.run([sys.executable, "-S", "-c", program], seconds=1.5)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert result["late"] and result["passed"] is False
    assert "one has failed so far" in result["output"] and "ended: its 2 s were up" in result["output"]


def test_a_contestant_that_fails_or_is_wrong_costs_no_other(monkeypatch, tmp_path):
    import gpu_benchmark
    import gpu_headlines
    import gpu_jobs
    import gpu_report
    import gpu_worker
    import gpu_workload

    everyone = gpu_workload.eager_contestants

    def with_faults(workload, training, device):
        def not_ready():
            raise RuntimeError("cannot be captured\nin detail")

        def no_room():
            raise RuntimeError("PDB_EXT_CUDA_PATH=persistent: this layer does not fit on the chip")

        right = everyone(workload, training, device)["pdb_ext"]()
        faults = {"pdb_ext in a CUDA graph": not_ready, "pdb_ext, path persistent, in a CUDA graph": no_room}
        return {"wrong": lambda: lambda: [2 * t for t in right()], **everyone(workload, training, device), **faults}

    monkeypatch.setattr(gpu_workload, "eager_contestants", with_faults)
    job, teller = gpu_jobs.dry_jobs("quick")[0], gpu_worker.Teller(tmp_path / "lines", ["hoisted"])
    result = job.describe() | gpu_benchmark.measure(job, "cpu", teller, seconds=0.01)
    assert result["failed"].keys() == {"wrong", "pdb_ext in a CUDA graph"}
    assert result["failed"]["pdb_ext in a CUDA graph"] == "cannot be captured"
    assert "relative RMS error 1" in result["failed"]["wrong"]
    assert result["left_out"].keys() == {"pdb_ext, path persistent, in a CUDA graph"}
    assert {"naive eager", "pdb_ext", "hoisted in a CUDA graph"} <= result["times"].keys()
    assert "hoisted" not in result["times"]
    assert gpu_headlines.is_failure(result)
    (line,) = (line for line in gpu_report.failed_contestants([result]) if "cannot be captured" in line)
    assert line == "| tiny PDB module | tf32 | forward | pdb_ext in a CUDA graph | cannot be captured |"
    del result["times"]["pdb_ext"]
    (row,) = gpu_report.speed_rows([result], {})
    assert "pdb_ext or naive eager failed" in row["error"]


def test_memory_is_measured_as_a_user_calls_it():
    """ "pdb_ext" with nothing said of memory, whichever of the others went before."""
    import gpu_jobs
    import gpu_workload

    workload = gpu_workload.GpuWorkload(gpu_jobs.TINY, torch.float32, "cpu")
    layers = [module for module in workload.module.modules() if isinstance(module, pdb_ext.ConvLSTM)]
    untouched = [(layer.recompute_gates, layer.checkpoint_every) for layer in layers]
    seen = {}
    for name, run in reversed(gpu_workload.memory_contestants(workload).items()):
        run()
        seen[name] = [(layer.recompute_gates, layer.checkpoint_every) for layer in layers]
    assert seen["pdb_ext"] == untouched == [(None, None)] * len(layers)
    assert seen["pdb_ext, recompute_gates=True"][0] == (True, None) != seen["pdb_ext, recompute_gates=False"][0]


def test_only_our_own_failures_are_failures():
    import gpu_headlines

    assert gpu_headlines.is_failure({"error": "the process ended with -11"})
    assert gpu_headlines.is_failure({"failed": {"pdb_ext in a CUDA graph": "wrong"}, "times": {}})
    assert not gpu_headlines.is_failure({"failed": {"torch.compile, default": "no Triton"}, "times": {}})
    assert not gpu_headlines.is_failure({"left_out": {"pdb_ext, path persistent": "does not fit"}, "times": {}})
    assert not gpu_headlines.is_failure({"error": "not measured: the time was up"})


def test_a_library_built_for_a_gpu_is_found_like_an_installed_one(tmp_path, monkeypatch):
    import build_for_gpu

    monkeypatch.setattr(build_for_gpu, "FOLDER", tmp_path)
    build_for_gpu.describe()
    (found,) = importlib.metadata.distributions(name="pdb-ext", path=[str(tmp_path)])
    assert Path(found.locate_file("pdb_ext")) == tmp_path / "pdb_ext"
    assert not build_for_gpu.is_stale(), "there is none"
    (tmp_path / "pdb_ext").mkdir()
    (tmp_path / "pdb_ext/_build.json").write_text('{"sources": "others"}')
    assert build_for_gpu.is_stale()


def test_what_is_known_survives_and_full_goes_on_from_it(tmp_path):
    """A quick run that is ended after its answers; a full run that finds a measurement does not take it again."""
    with subprocess.Popen(
        [*CHECK, "--out", str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert any("-m pytest" in line for line in process.stdout)  # the answers are known
        process.terminate()
        process.communicate()
    assert process.returncode == 143
    assert len(json.loads((tmp_path / "gpu_check.json").read_text())["answers"]) == 10
    import gpu_check
    import gpu_jobs

    check = gpu_check.Check("cpu", tmp_path, None, goes_on=True)
    first, second = gpu_jobs.dry_jobs("quick")[:2]
    assert len(check.report["answers"]) == 10 and check.is_open(first)
    check.report["benchmark"] = {first.key: {"times": {}}, second.key: {"error": "hung: no news for 20 s"}}
    assert not check.is_open(first) and not check.is_open(second), "what has failed once is not tried again"
    assert gpu_check.Check("cpu", tmp_path, None, goes_on=False).report["answers"] == {}
    # Not what was measured of other code.
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    for stage in report["machines"].values():
        stage["code"] = "another"
    (tmp_path / "gpu_check.json").write_text(json.dumps(report))
    assert gpu_check.Check("cpu", tmp_path, None, goes_on=True).report["answers"] == {}
