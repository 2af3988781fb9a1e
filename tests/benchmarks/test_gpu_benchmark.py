"""What the GPU check times: faulty contestants, the settings of memory, and which failures count."""

import torch

import pdb_ext


def test_a_contestant_that_fails_or_is_wrong_costs_no_other(monkeypatch, tmp_path):
    from gpu import benchmark as gpu_benchmark
    from gpu import headlines as gpu_headlines
    from gpu import jobs as gpu_jobs
    from gpu import report as gpu_report
    from gpu import worker as gpu_worker
    from gpu import workloads as gpu_workloads

    everyone = gpu_workloads.eager_contestants

    def with_faults(workload, training, device):
        def not_ready():
            raise RuntimeError("cannot be captured\nin detail")

        def no_room():
            raise RuntimeError("PDB_EXT_CUDA_PATH=persistent: this layer does not fit on the chip")

        right = everyone(workload, training, device)["pdb_ext"]()
        faults = {"pdb_ext in a CUDA graph": not_ready, "pdb_ext, path persistent, in a CUDA graph": no_room}
        return {"wrong": lambda: lambda: [2 * t for t in right()], **everyone(workload, training, device), **faults}

    monkeypatch.setattr(gpu_workloads, "eager_contestants", with_faults)
    job, reporter = gpu_jobs.dry_jobs("quick")[0], gpu_worker.Reporter(tmp_path / "lines", ["hoisted"])
    result = job.describe() | gpu_benchmark.measure(job, "cpu", reporter, seconds=0.01)
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
    """ "pdb_ext" without memory settings, no matter which of the others ran before."""
    from gpu import jobs as gpu_jobs
    from gpu import workloads as gpu_workloads

    workload = gpu_workloads.GpuWorkload(gpu_jobs.TINY, torch.float32, "cpu")
    layers = [module for module in workload.module.modules() if isinstance(module, pdb_ext.ConvLSTM)]
    untouched = [(layer.recompute_gates, layer.checkpoint_every) for layer in layers]
    seen = {}
    for name, run in reversed(gpu_workloads.memory_contestants(workload).items()):
        run()
        seen[name] = [(layer.recompute_gates, layer.checkpoint_every) for layer in layers]
    assert seen["pdb_ext"] == untouched == [(None, None)] * len(layers)
    assert seen["pdb_ext, recompute_gates=True"][0] == (True, None) != seen["pdb_ext, recompute_gates=False"][0]


def test_only_our_own_failures_are_failures():
    from gpu import headlines as gpu_headlines

    assert gpu_headlines.is_failure({"error": "the process ended with -11"})
    assert gpu_headlines.is_failure({"failed": {"pdb_ext in a CUDA graph": "wrong"}, "times": {}})
    assert not gpu_headlines.is_failure({"failed": {"torch.compile, default": "no Triton"}, "times": {}})
    assert not gpu_headlines.is_failure({"left_out": {"pdb_ext, path persistent": "does not fit"}, "times": {}})
    assert not gpu_headlines.is_failure({"error": "not measured: the time was up"})
