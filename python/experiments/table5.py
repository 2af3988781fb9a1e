"""The ablation of the paper's Table 5 on a small scale: every temporal module on the same frozen features and budget.

    python python/experiments/table5.py --from runs/spatial -o runs/table5 --val VIDEOS --train SET ... [train options]

Each row is `pdb-saliency train --stage temporal` for each seed: the seed decides the clips, their order and the initial
weights, and the rows share the clips of a seed. The last model of a run is reported, never the best of its validations.
The first row is the spatial part of --from alone; the second, the control, trains the head on the same clips while the
temporal part stays at zero. An interrupted experiment goes on where it stopped. OUT/table5.md and OUT/table5.json hold
the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from pdb_saliency import training
from pdb_saliency.cli.console import library_on_console
from pdb_saliency.cli.train import parse, report, run_options, train_call
from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.errors import SaliencyError
from pdb_saliency.evaluation.validate import validate
from pdb_saliency.model.weights import load_model
from pdb_saliency.runtime.allocator import keep_freed_memory

CONTROL = "head"
ROWS = {
    CONTROL: "head alone, on the same clips",
    "fc_lstm": "FC-LSTM",
    "convlstm": "ConvLSTM",
    "b_convlstm": "B-ConvLSTM",
    "db_convlstm": "DB-ConvLSTM",
    "pdb_convlstm": "PDB-ConvLSTM",
}
METRICS = {"max_f": "max F", "mae": "MAE", "j_mean": "J"}


def train(kind: str, seed: int, start: str, out: Path, options: list[str]) -> dict:
    """The scores of one run, which is made unless it exists already."""
    run = out / f"{kind}-{seed}"
    if not (run / "metrics.json").exists():
        shared = out / f"cache-{seed}"  # Frozen features depend on the seed and not on the row.
        shared.mkdir(parents=True, exist_ok=True)
        run.mkdir(exist_ok=True)
        if not (run / "cache").exists():
            (run / "cache").symlink_to(shared.resolve())
        words = ["--stage", "temporal", "--from", start, "--seed", str(seed), "-o", str(run)]
        # The residual starts at zero, and frozen it stays there.
        frozen = ["--temporal", "convlstm", "--freeze", "residual.*", "--freeze", "temporal.*"]
        words += frozen if kind == CONTROL else ["--temporal", kind]
        parsed = parse([*words, *options])
        try:
            with library_on_console():
                metrics = training.train(out=run, options=run_options(parsed), **train_call(parsed))
        except SaliencyError as error:
            raise SystemExit(f"{run}: the run failed: {error}") from error
        except KeyboardInterrupt:  # A note in the log says how to go on.
            raise SystemExit(130) from None
        report(metrics, run)
    return json.loads((run / "metrics.json").read_text())["validation"]


def table(results: dict[str, list[dict]]) -> str:
    """Mean and standard deviation over the seeds; for J also the difference from the control with the same seed."""
    lines = ["| | " + " | ".join(METRICS.values()) + " | J against the control |", "|---" * (len(METRICS) + 2) + "|"]
    control = [scores["j_mean"] for scores in results.get(ROWS[CONTROL], [])]
    for row, runs in results.items():
        cells = [_mean([scores[metric] for scores in runs]) for metric in METRICS]
        paired = row in ROWS.values() and row != ROWS[CONTROL]
        cells.append(_mean([scores["j_mean"] - base for scores, base in zip(runs, control)], "+") if paired else "")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float], sign: str = "") -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.4f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="start", required=True, help="model file or run of stage spatial")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--val-every", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    arguments, options = parser.parse_known_args()
    keep_freed_memory()
    options += ["--val", arguments.val, "--val-every", str(arguments.val_every)]
    start = Path(arguments.start)
    videos = open_dataset(arguments.val, None).videos
    model = load_model(start / "model.safetensors" if start.is_dir() else start)
    baseline = validate(model, videos, torch.device("cpu"), clips_every=arguments.val_every)
    results = {"spatial part alone": [baseline]}
    for seed in range(arguments.seeds):  # Seed by seed, so that an early stop leaves complete tables.
        for kind, row in ROWS.items():
            results.setdefault(row, []).append(train(kind, seed, arguments.start, arguments.output, options))
            (arguments.output / "table5.json").write_text(json.dumps(results, indent=2) + "\n")
            (arguments.output / "table5.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
