"""The paper's tables, with its numbers and those measured here side by side, as Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.evaluation.report import as_dict
from pdb_saliency.evaluation.scoring import Rules
from pdb_saliency.runtime.progress import printable

from .datasets import PAPER_SETS
from .measurements import Measurement
from .tables import TABLES, Table

QUOTED, MEASURED, ABSENT = "quoted from the paper", "measured here", "absent"
_HEADS = {"mae": "MAE", "max_f": "max F", "j_mean": "J", "f_mean": "F"}
_BAR = "\\|"
_LEGEND = "*italic*: quoted from the paper. **bold**: measured here. -: absent."


@dataclass(frozen=True)
class Cell:
    """value: in the paper's unit. source: QUOTED, MEASURED or ABSENT.

    For several checkpoints that differ only in their weights, value is the mean and spread the standard deviation.
    """

    value: float | None
    source: str
    spread: float | None = None
    checkpoints: int = 0

    def text(self, digits: int) -> str:
        if self.value is None:
            return "-"
        number = f"{self.value:.{digits}f}" + (f" ± {self.spread:.{digits}f}" if self.spread is not None else "")
        return f"*{number}*" if self.source == QUOTED else f"**{number}**"


@dataclass(frozen=True)
class Row:
    """note: the network and the number of checkpoints, for a measured row; else empty."""

    name: str
    note: str
    cells: tuple[Cell, ...]


def rows(table: Table, measurements: Iterable[Measurement]) -> list[Row]:
    """Each row of the paper with its measurements below it, then the measured rows that the paper does not have."""
    groups: dict[str, dict[str, list[Measurement]]] = {}
    for measurement in measurements:
        row = measurement.method.rows.get(table.number)
        if row:
            groups.setdefault(row, {}).setdefault(measurement.method.kind, []).append(measurement)
    result = []
    for name in [*table.rows, *(row for row in groups if row not in table.rows)]:
        if name in table.rows:
            result.append(Row(name, "", tuple(Cell(value, QUOTED) for value in table.rows[name])))
        result += [_measured_row(table, name, group) for group in groups.get(name, {}).values()]
    return result


def markdown(
    numbers: Sequence[int], measurements: Sequence[Measurement], datasets: dict[str, Dataset], rules: Rules
) -> str:
    """A page with the tables of these numbers, the test sets, and the origin of each measurement."""
    parts = [
        "# The paper's tables",
        _LEGEND + " Values after ± are standard deviations over checkpoints.",
        _conditions(rules),
    ]
    for number in numbers:
        table = TABLES[number]
        parts.append(f"## Table {number}: {table.title}")
        heads = ["", *(_head(test_set, score, datasets) for test_set, score in table.columns)]
        lines = [heads, ["---"] * len(heads)]
        lines += [[_label(row), *(cell.text(table.digits) for cell in row.cells)] for row in rows(table, measurements)]
        parts.append("\n".join(map(_line, lines)))
    parts += ["## What was measured", _test_sets(datasets), _provenance(measurements)]
    return "\n\n".join(parts) + "\n"


def to_json(
    numbers: Sequence[int], measurements: Sequence[Measurement], datasets: dict[str, Dataset], rules: Rules
) -> str:
    """The same as `markdown`, and all scores.

    {"tables": {number: {"title", "columns": [[test set, score]], "rows": [{"name", "note", "cells": [{"value",
    "source", "spread", "checkpoints"}]}]}}, "test_sets": {name: how much of it is here}, "measurements": [{"label",
    "origin", "model", "date", "test_set", "scores": as in `evaluate --json`}]}.
    """
    tables = {}
    for number in numbers:
        table = TABLES[number]
        listed = [asdict(row) for row in rows(table, measurements)]
        tables[str(number)] = {"title": table.title, "columns": table.columns, "rows": listed}
    runs = [
        {
            "label": measurement.method.label,
            "origin": measurement.method.origin,
            "model": measurement.method.model,
            "date": measurement.date,
            "test_set": measurement.scores.task.dataset,
            "scores": as_dict(measurement.scores, rules),
        }
        for measurement in measurements
    ]
    here = {name: PAPER_SETS[name].describe(dataset) for name, dataset in datasets.items()}
    return json.dumps({"tables": tables, "test_sets": here, "measurements": runs}, indent=1, ensure_ascii=False)


def _measured_row(table: Table, name: str, group: list[Measurement]) -> Row:
    count = len({measurement.method.label for measurement in group})
    note = f"here: {group[0].method.model}" + (f"; {count} checkpoints" if count > 1 else "")
    return Row(name, note, tuple(_measured_cell(table, test_set, score, group) for test_set, score in table.columns))


def _measured_cell(table: Table, test_set: str, score: str, group: list[Measurement]) -> Cell:
    values = [getattr(m.scores.total, score) for m in group if m.scores.task.dataset == test_set]
    values = [table.scale * value for value in values if value is not None]
    if not values:
        return Cell(None, ABSENT)
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Cell(statistics.fmean(values), MEASURED, spread, len(values))


def _head(test_set: str, score: str, datasets: dict[str, Dataset]) -> str:
    if test_set not in datasets:
        here = " (not here)"
    elif len(datasets[test_set].videos) != PAPER_SETS[test_set].sequences:
        here = f" (here {len(datasets[test_set].videos)} of {PAPER_SETS[test_set].sequences} sequences)"
    else:
        here = ""
    return f"{test_set} {_HEADS[score]}{here}"


def _label(row: Row) -> str:
    return f"{row.name} ({row.note})" if row.note else row.name


def _conditions(rules: Rules) -> str:
    stretched = (
        "each stretched to its own minimum and maximum, as the authors did" if rules.normalise else "as they are"
    )
    return (
        f"Measured: 8-bit maps, {stretched}; MAE and max F over all frames; J and F at threshold {rules.threshold}, "
        "without the first and last annotated frame of each sequence. Quoted: Song et al., ECCV 2018, same table."
    )


def _test_sets(datasets: dict[str, Dataset]) -> str:
    here = {
        name: paper_set.describe(datasets[name]) if name in datasets else ABSENT
        for name, paper_set in PAPER_SETS.items()
    }
    return "\n".join(f"- {name}: {text}" for name, text in here.items())


def _provenance(measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return "Nothing: there was no checkpoint and no map."
    lines = [["origin", "model", "test set", "frames", "date"], ["---"] * 5]
    for m in measurements:
        lines.append([m.method.origin, m.method.model, m.scores.task.dataset, str(m.scores.total.frames), m.date])
    return "\n".join(map(_line, lines))


def _line(cells: Iterable[str]) -> str:
    """A line of a Markdown table. Names of files may contain anything."""
    return f"| {' | '.join(printable(cell).replace('|', _BAR) for cell in cells)} |"
