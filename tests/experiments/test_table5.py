"""The experiment of Table 5 on a small scale: which runs it makes, and what it reports about them."""

import importlib.util
import json
import statistics
from collections import namedtuple

import pytest

from helpers.paths import EXPERIMENTS
from pdb_saliency.errors import InputError

FILE = EXPERIMENTS / "table5.py"
Run = namedtuple("Run", ["config", "sources", "out", "model"])

# Score of each row, and what a seed adds to it.
J = {"head": 0.50, "fc_lstm": 0.48, "convlstm": 0.51, "b_convlstm": 0.52, "db_convlstm": 0.53, "pdb_convlstm": 0.55}
OF_SEED = (0.00, 0.04, 0.02)


@pytest.fixture
def table5(tmp_path, monkeypatch):
    """The script, with the training and its own validation replaced."""
    spec = importlib.util.spec_from_file_location("table5", FILE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.made = []

    def train(config, sources, out, *, model, **options):
        script.made.append(Run(config, sources, out, model))
        kind = "head" if config.freeze else model.temporal
        score = J[kind] + OF_SEED[config.seed]
        scores = {"validation": {"max_f": score + 0.2, "mae": 0.1 - score / 10, "j_mean": score}}
        (out / "metrics.json").write_text(json.dumps(scores))
        return scores | {"steps": config.steps, "loss": 0.5, "best": None}

    monkeypatch.setattr(script.training, "train", train, raising=False)
    monkeypatch.setattr(script, "load_model", lambda path: path)
    monkeypatch.setattr(script, "open_dataset", lambda *_: type("Set", (), {"videos": ()}))
    monkeypatch.setattr(script, "validate", lambda *_, **__: {"max_f": 0.7, "mae": 0.06, "j_mean": 0.49})
    options = ["--from", "spatial.safetensors", "-o", str(tmp_path / "out"), "--val", "videos", "--train", "stills"]
    monkeypatch.setattr("sys.argv", ["table5.py", *options, "--cache", "400", "--steps", "120"])
    return script


def test_every_row_has_the_same_budget_and_clips(table5, tmp_path):
    table5.main()
    assert len(table5.made) == 6 * 3
    for run in table5.made:
        assert (run.config.stage, run.config.cache, run.config.steps) == ("temporal", 400, 120)
        assert (run.model.weights, run.sources.train, run.sources.val) == (
            "spatial.safetensors", [("stills", 1.0)], ["videos"],
        )  # fmt: skip
        # Frozen features depend on the seed alone, so the rows of a seed share them.
        assert (run.out / "cache").resolve() == (tmp_path / f"out/cache-{run.config.seed}").resolve()
    assert [run.model.temporal for run in table5.made[:6]] == ["convlstm", *list(J)[1:]]
    assert [bool(run.config.freeze) for run in table5.made[:6]] == [True] + [False] * 5
    assert table5.made[0].config.freeze == ("residual.*", "temporal.*")


def test_means_spreads_and_differences_from_the_control(table5, tmp_path, capsys):
    table5.main()
    lines = (tmp_path / "out/table5.md").read_text().splitlines()
    assert lines[0] == "| | max F | MAE | J | J against the control |" and len(lines) == 2 + 7
    assert lines[2] == "| spatial part alone | 0.7000 | 0.0600 | 0.4900 |  |"
    spread = f"± {statistics.stdev(OF_SEED):.4f}"
    assert lines[3] == f"| head alone, on the same clips | 0.7200 {spread} | 0.0480 ± 0.0020 | 0.5200 {spread} |  |"
    # A seed shifts both alike, so their difference has no spread.
    assert lines[-1].endswith(f"| 0.5700 {spread} | +0.0500 ± 0.0000 |")
    stored = json.loads((tmp_path / "out/table5.json").read_text())
    assert [len(runs) for runs in stored.values()] == [1] + [3] * 6
    assert "PDB-ConvLSTM" in capsys.readouterr().out


def test_an_interrupted_experiment_goes_on(table5, tmp_path):
    table5.main()
    (tmp_path / "out/fc_lstm-1/metrics.json").unlink()
    table5.made.clear()
    table5.main()
    assert [(run.model.temporal, run.config.seed) for run in table5.made] == [("fc_lstm", 1)]


def test_a_run_that_fails_is_named(table5, monkeypatch):
    def train(**_):
        raise InputError("no such folder")

    monkeypatch.setattr(table5.training, "train", train, raising=False)
    with pytest.raises(SystemExit, match="head-0: the run failed: no such folder"):
        table5.main()
