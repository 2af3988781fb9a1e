"""The ConvGRU's timing on a GPU, as a dry run on the CPU."""

import json


def test_every_contestant_is_checked_and_timed(tmp_path):
    import gpu_gru

    out = tmp_path / "gru.json"
    gpu_gru.main(["--device", "cpu", "--seconds", "0.01", "--precisions", "tf32", "--json", str(out)])
    results = json.loads(out.read_text())["results"]
    assert [result["training"] for result in results] == [False, True]
    for result in results:
        assert {"naive eager", "pdb_ext", "pdb_ext, graph", "pdb_ext, path aten, graph"} <= result["times"].keys()
        assert all(times["wall_ms"][1] > 0 for times in result["times"].values())
