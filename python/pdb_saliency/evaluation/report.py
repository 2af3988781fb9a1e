"""Scores as a table of text, as JSON, and as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pdb_saliency.runtime.files import check_file, write_file
from pdb_saliency.runtime.progress import printable

from .plot import check_plot, curves_of, plot_curves
from .scoring import Rules, Scores, TaskScores

_COLUMNS = {
    "frames": "frames",
    "mae": "MAE",
    "max_f": "max F",
    "s": "S",
    "e_max": "max E",
    "j_mean": "J mean",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F mean",
    "f_recall": "F recall",
    "f_decay": "F decay",
}
_CURVES = ("precision", "recall")


def check_files(json_file: Path | None, plots: Sequence[Path]) -> None:
    """Raise before the work what would stop `write_files` after it. Raises OutputError, SaliencyError."""
    for plot in plots:
        check_plot(plot)
    for file in [*plots, *([json_file] if json_file else [])]:
        check_file(file)


def write_files(results: Sequence[TaskScores], rules: Rules, json_file: Path | None, plots: Sequence[Path]) -> None:
    """Write the scores to `json_file` and the precision-recall plots to `plots` (.png or .pdf). Raises OutputError."""
    if json_file:
        write_file(json_file, to_json(results, rules).encode())
    if plots:
        plot_curves(curves_of((result.task.method, result) for result in results), plots)


def table(results: Sequence[TaskScores], sequences: bool) -> str:
    """Aligned lines: one for each method and data set and, if `sequences`, one for each of its sequences below it."""
    several = len({result.task.method for result in results}) > 1
    rows = [["data set", "method", *_COLUMNS.values()] if several else ["data set", *_COLUMNS.values()]]
    for result in sorted(results, key=lambda result: result.task.dataset):
        rows.append([result.task.dataset, *([result.task.method] if several else []), *_cells(result.total)])
        if sequences:
            for name, scores in result.sequences.items():
                rows.append([f"  {name}", *([result.task.method] if several else []), *_cells(scores)])
    texts = 2 if several else 1
    rows = [list(map(printable, row)) for row in rows]  # Names of folders may contain anything.
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < texts else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def to_json(results: Sequence[TaskScores], rules: Rules) -> str:
    """The scores of one method on one data set; for more than that, {method: {data set: scores}}.

    scores: {"frames", "mae", "max_f", "max_f_cut", "max_f_of_means", "s", "e_max", "j_mean", "j_recall", "j_decay",
    "f_mean", "f_recall", "f_decay", "precision", "recall", "threshold", "normalise", "missing", "sequences": {name: the
    same without the curves, the rules and "missing"}}. Numbers are in [0, 1] (decay: [-1, 1]), null for undefined
    scores. precision and recall have 256 values, one for each cut at level 0, 1, ..., 255.
    """
    if len(results) == 1:
        return json.dumps(as_dict(results[0], rules), indent=1)
    nested: dict[str, dict] = {}
    for result in results:
        nested.setdefault(result.task.method, {})[result.task.dataset] = as_dict(result, rules)
    return json.dumps(nested, indent=1)


def as_dict(result: TaskScores, rules: Rules) -> dict:
    """The scores of one method on one data set, see `to_json`."""
    return {
        **_numbers(result.total),
        **{name: [round(float(value), 6) for value in getattr(result.total, name)] for name in _CURVES},
        "threshold": rules.threshold,
        "normalise": rules.normalise,
        "missing": len(result.task.missing),
        "sequences": {name: _numbers(scores) for name, scores in result.sequences.items()},
    }


def _numbers(scores: Scores) -> dict:
    return {field.name: getattr(scores, field.name) for field in fields(scores) if field.name not in _CURVES}


def _rounded(value: float) -> float:
    return round(value, 3) + 0.0  # Not "-0.000".


def _cells(scores: Scores) -> list[str]:
    values = [getattr(scores, name) for name in _COLUMNS]
    return [
        "-" if value is None else str(value) if isinstance(value, int) else f"{_rounded(value):.3f}" for value in values
    ]
