"""The ablation of the paper's Table 5 in small: every temporal module on the same frozen features, with the same budget.

    python python/experiments/table5.py --from runs/spatial -o runs/table5 --val VIDEOS --train SET ... [train options]

Each row is `pdb-saliency train --stage temporal` for each seed: clips, order and initial weights come from the seed, and the
rows share the clips of a seed. Reported is the last model of a run, never the best of its validations. The baseline is the
spatial part of --from alone. An interrupted experiment goes on where it was. OUT/table5.md and OUT/table5.json hold the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from pdb_saliency.cli import main as pdb_saliency
from pdb_saliency.data.catalog import open_dataset
from pdb_saliency.evaluation.validate import validate
from pdb_saliency.weights import load_model

ROWS = {
    "fc_lstm": "FC-LSTM",
    "convlstm": "ConvLSTM",
    "b_convlstm": "B-ConvLSTM",
    "db_convlstm": "DB-ConvLSTM",
    "pdb_convlstm": "PDB-ConvLSTM",
}
METRICS = {"max_f": "max F", "mae": "MAE", "j_mean": "J"}


def train(kind: str, seed: int, start: str, out: Path, options: list[str]) -> dict:
    """The scores of one run, which is made where it is not there yet."""
    run = out / f"{kind}-{seed}"
    if not (run / "metrics.json").exists():
        shared = out / f"cache-{seed}"  # Frozen features depend on the seed and not on the row.
        shared.mkdir(parents=True, exist_ok=True)
        run.mkdir(exist_ok=True)
        if not (run / "cache").exists():
            (run / "cache").symlink_to(shared.resolve())
        command = ["train", "--stage", "temporal", "--from", start, "--temporal", kind, "--seed", str(seed), "-o", str(run)]
        if pdb_saliency([*command, *options]):
            raise SystemExit(f"{run}: the run failed")
    return json.loads((run / "metrics.json").read_text())["validation"]


def table(results: dict[str, list[dict]]) -> str:
    lines = ["| | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for row, runs in results.items():
        cells = []
        for metric in METRICS:
            values = [scores[metric] for scores in runs]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="start", required=True, help="model file or run of stage spatial")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--val", required=True)
    parser.add_argument("--val-every", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    arguments, options = parser.parse_known_args()
    options += ["--val", arguments.val, "--val-every", str(arguments.val_every)]
    start = Path(arguments.start)
    videos = open_dataset(arguments.val, None).videos
    model = load_model(start / "model.safetensors" if start.is_dir() else start)
    baseline = validate(model, videos, torch.device("cpu"), clips_every=arguments.val_every)
    results = {"spatial part alone": [baseline]}
    for seed in range(arguments.seeds):  # Seed by seed, so that an early stop leaves whole columns.
        for kind, row in ROWS.items():
            results.setdefault(row, []).append(train(kind, seed, arguments.start, arguments.output, options))
            (arguments.output / "table5.json").write_text(json.dumps(results, indent=2) + "\n")
            (arguments.output / "table5.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
