"""The tables of the GPU check (python/benchmarks/gpu/report.py and what it uses), from made-up measurements."""

import json
import sys

import pytest

from helpers.paths import ROOT

HEAD = {"workload": "PDB module of the paper", "precision": "bfloat16", "pass": "forward", "flops": 1e9, "depth": 10}


def times(device, wall=None, **more):
    """The times of one contestant, all quartiles the same."""
    result = {} if device is None else {"device_ms": 3 * [device]}
    return result | {"wall_ms": 3 * [wall or device], "calls": 1, "samples": 5} | more


def eager_group():
    contestants = {"naive eager": times(40.0, 80.0, hidden=0.5), "hoisted": times(30.0), "pdb_ext": times(12.0, 25.0)}
    contestants["pdb_ext in a CUDA graph"] = times(10.0, 16.0, flushed_ms=3 * [11.0])
    paths = ("step", "persistent", "aten")
    return contestants | {f"pdb_ext, path {path}, in a CUDA graph": times(9.0 + i) for i, path in enumerate(paths)}


def test_the_table_takes_ratios_within_a_group():
    from gpu import report as gpu_report

    # Measured while the GPU was twice as slow.
    compiled = {"torch.compile, default": times(50.0), "pdb_ext": times(20.0)}
    jax = {"JAX lax.scan": times(None, 96.0), "pdb_ext in a CUDA graph": times(None, 32.0)}
    groups = [HEAD | {"group": "eager", "times": eager_group()}, HEAD | {"group": "torch.compile", "times": compiled}]
    groups.append(HEAD | {"group": "jax", "times": jax})
    groups.append(HEAD | {"group": "max-autotune", "error": "not measured: the time was up"})
    floors = {"matrix_rates": {"bfloat16": 1e14}, "flag_latency_s": 1e-6}
    (row,) = gpu_report.speed_rows(groups, floors)
    assert row["ours_ms"] == 10.0 and row["over_naive"] == 4.0 and row["over_naive_wall"] == 5.0
    assert row["best_peer"] == "torch.compile, default" and row["over_best_peer"] == 2.5
    assert (3.0, "JAX lax.scan", 96.0) in gpu_report.peers_of(groups[2])
    assert row["floor_ms"] == pytest.approx(0.01) and row["paths_ms"] == {"step": 9.0, "persistent": 10.0, "aten": 11.0}
    line = gpu_report.speed_table([row])[-1]
    assert "| 10.000 | 9.000 / 10.000 / 11.000 | 40.000 | 4.0x | 5.0x | torch.compile, default, 50.000 ms (not" in line
    assert "(not measured: max-autotune) | 2.50x |" in line
    assert "1000.0x of 0.010 ms" in line
    (failed,) = gpu_report.speed_rows([HEAD | {"group": "eager", "error": "not measured: the time was up"}], {})
    assert "not measured" in gpu_report.speed_table([failed])[-1]


def test_floor_is_the_larger_of_arithmetic_and_latency():
    from gpu import report as gpu_report

    assert gpu_report.floor_ms(1e12, 10, 1e14, 1e-6) == pytest.approx(10.0)
    assert gpu_report.floor_ms(1e9, 100, 1e14, 1e-6) == pytest.approx(0.1)
    assert gpu_report.floor_ms(1e9, 100, 1e14, None) == pytest.approx(0.01)


def whole_report():
    """The report of a run in which everything was measured."""
    from gpu import jobs as gpu_jobs

    report = {name: {} for name in ("machines", "seconds", "clocks", "checks", "answers", "profile", "floors", "ncu")}
    report["benchmark"] = {}
    for job in gpu_jobs.every_job("cuda").values():
        contestants = eager_group() | {f"peer {i}, of {job.group}": times(20.0 + i, hidden=1.0) for i in range(8)}
        report["benchmark"][job.key] = HEAD | job.describe() | {"times": contestants}
    keys = [key for path in gpu_jobs.PATHS for key in gpu_jobs.answers(path)]
    report["answers"] = dict.fromkeys(keys, {"passed": True, "words": "right"})
    report["checks"] = {f"check {i}": {"passed": True, "late": False, "seconds": 9.9, "output": ""} for i in range(12)}
    kernels = [{"kernel": "persistent_kernel<Forward<float>>", "count": 1, "us": 80.0}]
    kernels.append({"kernel": "persistent_pack_kernel<float>", "count": 1, "us": 5.0})
    report["profile"] = {"bfloat16 | forward": {"kernels": kernels, "launches": 2, "us": 85.0}}
    report["floors"] = {"matrix_rates": {"bfloat16": 8e14}, "flag_latency_s": 7e-7}
    report["ncu"] = {"Forward": {"Duration": "80 us"}}
    return report


def test_the_screen_fits_what_shows_the_end_of_an_output():
    from gpu import headlines as gpu_headlines

    report = whole_report()
    report["checks"]["tests"] = {"passed": False, "late": True, "seconds": 130, "output": ""}
    report["benchmark"]["x"] = HEAD | {"workload": "w", "group": "eager", "error": "hung: no news for 20 s"}
    screen = gpu_headlines.screen(report)
    assert len(screen) < 12000 and "bfloat16, forward and backward" in screen and "tf32, forward" in screen
    assert "2 failures" in screen and "tests: did not end in its time" in screen and "x: hung" in screen
    many = report | {"answers": {f"path {i}": {"passed": False, "words": "wrong"} for i in range(60)}}
    assert "tests: did not end in its time" in gpu_headlines.screen(many) and "62 failures" in gpu_headlines.screen(
        many
    )
    assert len(gpu_headlines.screen(many)) < 12000
    naive = next(line for line in screen.splitlines() if line.startswith("  naive eager"))
    assert "40.000" in naive and "4.00x   80.000   5.00x" in naive and naive.endswith("not all hidden")


def test_predictions_stand_beside_what_was_measured():
    from gpu import predictions as gpu_predictions
    from gpu import report as gpu_report

    rows = json.loads(gpu_predictions.FILE.read_text())
    values = gpu_predictions.measured(whole_report())
    for row in rows:
        assert row.keys() == {"key", "value", "range", "unit", "derivation"}
        assert row["range"][0] <= row["value"] <= row["range"][1]
    assert values["PDB module of the paper | bfloat16 | forward | naive eager | wall ms"] == 80.0
    assert values["flag latency | ns"] == pytest.approx(700)
    assert values["matrix rate | bfloat16 | Top/s"] == pytest.approx(800)
    assert gpu_predictions.find("kernels | bfloat16 | forward | persistent_kernel | us", values) == 80.0
    text = gpu_report.markdown(whole_report())
    assert "| flag latency, ns | 700 ns | 500 - 1000 | 700 ns | as predicted |" in text
    assert "not measured" in text and "Kernels, bfloat16 | forward: 2 launches, 85.0 us" in text


def test_metrics_of_ncu():
    from gpu import parts as gpu_parts

    text = """
  void pdb::cuda::persistent_kernel<pdb::cuda::<unnamed>::Forward<...>>(T1) (128, 1, 1)x(256, 1, 1), Context 1, CC 9.0
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    ----------------------- ----------- ------------
    SM Frequency                    Ghz         1.75
    Duration                         us        81.22
    Compute (SM) Throughput           %        35.10
    Registers Per Thread             register/thread             216
  void pdb::cuda::persistent_kernel<pdb::cuda::<unnamed>::Backward<...>>(T1) (128, 1, 1)x(256, 1, 1), Context 1, CC 9.0
    Duration                         ms         1,081.5
"""
    forward = {"SM Frequency": "1.75 Ghz", "Duration": "81.22 us", "Compute (SM) Throughput": "35.10 %"}
    forward["Registers Per Thread"] = "216 register/thread"
    assert gpu_parts.ncu_metrics(text) == {"Forward": forward, "Backward": {"Duration": "1,081.5 ms"}}


@pytest.mark.parametrize("nan", [float("nan"), 1.0])
def test_answers_are_judged_by_pytorchs_own_error(nan):
    from gpu import answers as gpu_answers

    assert gpu_answers.judge({"ours": [3e-3], "eager": [2e-3]}, "float32") == (True, pytest.approx(1.5))
    assert not gpu_answers.judge({"ours": [5e-3, 0.0], "eager": [2e-3, 0.0]}, "float32")[0]
    assert gpu_answers.judge({"ours": [1.9 * 2**-7], "eager": [1e-9]}, "bfloat16")[0], (
        "two roundings are always allowed"
    )
    assert not gpu_answers.judge({"ours": [nan], "eager": [1e-3]}, "float32")[0]
    call = {"op": "convlstm", "path": "step", "layers": 1}
    calls = [call, call | {"op": "convlstm_backward"}]
    assert gpu_answers.wrong_path(calls, "step") is None
    assert "what ran" in gpu_answers.wrong_path(calls, "persistent") and gpu_answers.wrong_path([call], "step")
    one = [c | {"path": "persistent", "layers": 4} for c in calls]
    assert gpu_answers.wrong_path(one, "pyramid") is None and gpu_answers.wrong_path(one, "persistent")


def test_results_do_not_name_the_folders_of_the_machine(tmp_path):
    from gpu import report as gpu_report

    output = f"rootdir: {ROOT}\n{ROOT}/tests/x.py:1 {sys.prefix}/lib/y.py:2 https://pytorch.org/"
    report = {name: {} for name in ("machines", "floors", "answers", "profile", "ncu", "benchmark")}
    gpu_report.write(tmp_path, report | {"checks": {"tests": {"passed": True, "seconds": 1, "output": output}}})
    written = json.loads((tmp_path / "gpu_check.json").read_text())["checks"]["tests"]["output"]
    assert written == "rootdir: .\n./tests/x.py:1 PYTHON/lib/y.py:2 https://pytorch.org/"


def test_jax_computes_the_same():
    pytest.importorskip("jax")
    import jax_peers
    from gpu import jobs as gpu_jobs
    from gpu import workloads as gpu_workloads
    from measure import relative_error

    workload, exact = gpu_workloads.with_exact(gpu_jobs.TINY, "float32", "cpu")
    run, convert = jax_peers.contestant(workload, True, "float32", unroll=False)
    for ours, value in zip(convert(run()), exact, strict=True):
        assert relative_error(ours, value) < 1e-5
