"""What was predicted for a GPU before anything ran on one (predictions.json), beside what was measured.

A prediction is an object of
    key         one of the keys of measured(), as gpu_check.json lists them under "measured"
    value       what is predicted, and
    range       [low, high], within which the prediction counts as right
    unit        of both
    derivation  where the number comes from
"""

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


def measured(report: dict) -> dict[str, float]:
    """Everything that was measured, by name. Times of contestants are medians."""
    values = {}
    for result in report["benchmark"].values():
        head = f"{result['workload']} | {result['precision']} | {result['pass']}"
        for name, times in result.get("times", {}).items():
            # pdb_ext is in every group; the first, that of the eager peers, is the one that counts.
            for kind in ("device", "wall", "flushed"):
                if f"{kind}_ms" in times:
                    values.setdefault(f"{head} | {name} | {kind} ms", times[f"{kind}_ms"][1])
        for name, peak in result.get("peak_bytes", {}).items():
            if peak is not None:
                values[f"{head} | {name} | peak MiB"] = peak / 2**20
    for key, result in report["profile"].items():
        values |= {f"kernels | {key} | {unit}": result[unit] for unit in ("launches", "us") if unit in result}
        for row in result.get("kernels", []):
            values[f"kernels | {key} | {row['kernel']} | us"] = row["us"]
    for name, rate in report["floors"].get("matrix_rates", {}).items():
        values[f"matrix rate | {name} | Top/s"] = rate / 1e12
    if "flag_latency_s" in report["floors"]:
        values["flag latency | ns"] = report["floors"]["flag_latency_s"] * 1e9
    return values


def find(key: str, values: dict[str, float]) -> float | None:
    """The value of this key. In "kernels | ..." a part of the name is enough: the sum of all kernels that match."""
    if key in values or not key.startswith("kernels | "):
        return values.get(key)
    *head, part, unit = key.split(" | ")
    found = [value for name, value in values.items()
             if name.split(" | ")[:-2] == head and name.endswith(unit) and part in name.split(" | ")[-2]]  # fmt: skip
    return sum(found) if found else None


def compared(report: dict) -> list[dict]:
    values, rows = measured(report), json.loads(FILE.read_text())
    for row in rows:
        row["measured"] = find(row["key"], values)
        low, high = row["range"]
        right = row["measured"] is not None and low <= row["measured"] <= high
        row["verdict"] = "not measured" if row["measured"] is None else "as predicted" if right else "NOT as predicted"
    return rows


def prediction_table(report: dict) -> list[str]:
    lines = ["| prediction | predicted | range | measured | verdict | derivation |", "|---|---|---|---|---|---|"]
    for row in compared(report):
        low, high = row["range"]
        value = "" if row["measured"] is None else f"{row['measured']:.4g} {row['unit']}"
        key = row["key"].replace(" | ", ", ")
        predicted = [f"{row['value']:g} {row['unit']}", f"{low:g} - {high:g}"]
        cells = [key, *predicted, value, row["verdict"], row["derivation"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
