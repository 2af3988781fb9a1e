"""A part of python/benchmarks/gpu_check.py that fails, hangs or loses the GPU affects nothing but itself."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from helpers.paths import ROOT

# Stands in for a worker: "a", "b" and "c" are its jobs, of two contestants each. ACT says what each one does to it.
FAKE = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--jobs", nargs="+")
parser.add_argument("--without", nargs="*", default=[])
arguments = parser.parse_args()
def report(line):
    with open(arguments.out, "a") as file: file.write(json.dumps(line) + "\\n")
for key in arguments.jobs:
    report({"trying": None})
    for name in {"one", "two", None} - set(arguments.without):
        report({"trying": name})
        act = ACT.get((key, name))
        if act == "crash": os.kill(os.getpid(), 11)
        if act == "hang": time.sleep(600)
        if act == "lose the GPU": sys.exit("two: an illegal memory access")
    report({"key": key})
    if " | " not in key: arguments.without = []
    if ACT.get(key) == "leave": break
"""


def run_fake(tmp_path, act, seconds=100.0, silence=1.5, keys=("a", "b", "c")):
    from gpu import processes as gpu_processes

    (tmp_path / "fake.py").write_text(FAKE.replace("ACT", repr(act)))
    results, command = [], [sys.executable, "-S", str(tmp_path / "fake.py")]
    jobs = dict.fromkeys(keys, silence)
    gpu_processes.run_jobs(command, jobs, tmp_path / "lines.jsonl", time.time() + seconds, results.append)
    assert [result["key"] for result in results] == list(keys)
    return results


@pytest.mark.slow(but=["crash--11"])
@pytest.mark.parametrize(
    "act, why", [("crash", "-11"), ("hang", "no news for 2 s"), ("lose the GPU", "illegal memory")]
)
def test_a_contestant_that_ends_its_process_costs_itself_alone(tmp_path, act, why):
    a, b, c = run_fake(tmp_path, {("b", "two"): act}, silence=1.6)
    assert a == {"key": "a"} and c == {"key": "c"}
    assert b["failed"].keys() == {"two"} and why in b["failed"]["two"] and "error" not in b


def test_a_contestant_that_ends_its_process_is_not_tried_again_on_the_same_workload(tmp_path):
    """Otherwise every job would cost as many starts as there are such contestants."""
    keys = ("a | 1", "a | 2", "b | 1")
    first, second, other = run_fake(tmp_path, {(key, "two"): "crash" for key in keys[:2]}, keys=keys)
    assert first["failed"] == second["failed"] and "-11" in second["failed"]["two"] and other == {"key": "b | 1"}
    from gpu import worker as gpu_worker

    seen = {}

    def run(key, device, reporter):
        seen[key] = set(reporter.without)
        if key == keys[-1]:
            raise SystemExit(0)
        return {}

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(
            sys, "argv", ["", "--device", "cpu", "--out", str(tmp_path / "out"), "--without", "two", "--jobs", *keys]
        )
        gpu_worker.serve("", run)
    assert seen == {"a | 1": {"two"}, "a | 2": {"two"}, "b | 1": set()}


@pytest.mark.slow(but=["crash"])
@pytest.mark.parametrize("act", ["crash", "hang"])
def test_a_job_that_ends_its_process_costs_itself_alone(tmp_path, act):
    a, b, c = run_fake(tmp_path, {("b", None): act})
    assert a == {"key": "a"} and c == {"key": "c"} and b["error"].startswith(("the process ended", "hung"))


def test_a_process_that_lost_its_gpu_is_followed_by_another(tmp_path):
    assert run_fake(tmp_path, {"a": "leave"}) == [{"key": "a"}, {"key": "b"}, {"key": "c"}]


@pytest.mark.slow
def test_what_hangs_is_ended_in_time_and_nothing_is_lost(tmp_path):
    begin = time.time()
    a, b, c = run_fake(tmp_path, {("b", "one"): "hang"}, seconds=1.5, silence=100)
    assert time.time() - begin < 30
    assert a == {"key": "a"} and b["error"] == c["error"] == "not measured: the time was up"


def test_a_worker_that_cannot_begin_is_asked_once(tmp_path):
    from gpu import processes as gpu_processes

    results = []
    command = [sys.executable, "-c", "raise SystemExit('pdb_ext has no CUDA kernels here')"]
    gpu_processes.run_jobs(command, {"a": 1, "b": 1}, tmp_path / "lines", time.time() + 60, results.append)
    assert [result["key"] for result in results] == ["a", "b"] and all("no CUDA kernels" in r["error"] for r in results)


@pytest.mark.slow
@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_who_is_ended_still_says_what_it_knows(before):
    """A shell's background job ignores interrupts."""
    from gpu import processes as gpu_processes

    program = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('one has failed so far')"
    usual = signal.signal(signal.SIGINT, before)
    try:
        result = gpu_processes.run([sys.executable, "-S", "-c", program], seconds=1.5)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert result["late"] and result["passed"] is False
    assert "one has failed so far" in result["output"] and "ended: its 2 s were up" in result["output"]


LOSING = """
import pytest, torch

def lose(): raise RuntimeError("CUDA error: device-side assert triggered")

def test_before(): pass
def test_culprit(monkeypatch): torch.cuda.is_initialized, torch.cuda.synchronize = (lambda: True), lose
@pytest.mark.parametrize("i", range(20))
def test_behind(i): assert not torch.cuda.is_initialized()
"""


@pytest.mark.slow(but=["0"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_that_loses_the_gpu_fails_no_other(tmp_path, workers):
    """Without workers it ends the run; with workers, another one takes over."""
    if workers and importlib.util.find_spec("xdist") is None:
        pytest.skip("needs pytest-xdist")
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_losing.py").write_text(LOSING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    command += ["-n", str(workers)] if importlib.util.find_spec("xdist") else []
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=alone, timeout=120)
    if workers:
        assert result.returncode == 1
        assert "1 failed, 22 passed" in result.stdout and "crashed while running" in result.stdout
    else:
        assert result.returncode == 3
        assert "2 passed" in result.stdout and "test_culprit: the GPU cannot be" in result.stdout
