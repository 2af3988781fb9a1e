"""The GPU check without a GPU: every part of python/benchmarks/gpu_check.py runs on the CPU, as documented."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.paths import BENCHMARKS, ROOT

CHECK = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu"]


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python"), *sys.path])}


@pytest.mark.slow
def test_dry_run(tmp_path):
    """Both stages: builds nothing and times a tiny module, but makes every kind of measurement, check and table."""
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
    from gpu import jobs as gpu_jobs

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


@pytest.mark.slow
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
    from gpu import jobs as gpu_jobs

    check = gpu_check.Check("cpu", tmp_path, None, goes_on=True)
    first, second = gpu_jobs.dry_jobs("quick")[:2]
    assert len(check.report["answers"]) == 10 and check.is_open(first)
    check.report["benchmark"] = {first.key: {"times": {}}, second.key: {"error": "hung: no news for 20 s"}}
    assert not check.is_open(first) and not check.is_open(second), "what has failed once is not tried again"
    assert gpu_check.Check("cpu", tmp_path, None, goes_on=False).report["answers"] == {}
    # Measurements of other code do not count.
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    for stage in report["machines"].values():
        stage["code"] = "another"
    (tmp_path / "gpu_check.json").write_text(json.dumps(report))
    assert gpu_check.Check("cpu", tmp_path, None, goes_on=True).report["answers"] == {}


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
