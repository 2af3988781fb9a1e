"""The tables of gpu_check.py, from what gpu_benchmark.py has written."""

import json
from pathlib import Path

from gpu_floor import floor_ms

PATHS = ("step", "persistent", "aten")
WORDS = {True: "passed", False: "FAILED", None: "not run"}


def is_ours(name: str) -> bool:
    return name.startswith("pdb_ext")


def speed_rows(results: list[dict], floors: dict) -> list[dict]:
    """One row for each workload, precision and pass: its groups of contestants put together.

    Ratios are taken within a group, whose contestants were measured in turns; the best peer is that of the smallest ratio.
    """
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        if result["group"] != "memory":
            groups.setdefault((result["workload"], result["precision"], result["pass"]), []).append(result)
    return [_speed_row(key, group, floors) for key, group in groups.items()]


def _speed_row(key: tuple, group: list[dict], floors: dict) -> dict:
    row = dict(zip(("workload", "precision", "pass"), key))
    # Without ours, or without what is compared with, there is no ratio; both may have failed alone.
    measured = [result for result in group if {"pdb_ext", "naive eager"} <= result.get("median_ms", {}).keys()]
    if not measured:
        return row | {"error": group[0].get("error", "pdb_ext or naive eager failed: see below")}
    peers = []  # (peer over ours, name, milliseconds)
    for result in measured:
        medians = result["median_ms"]
        best = min(value for name, value in medians.items() if is_ours(name) and "path" not in name)
        peers += [(value / best, name, value) for name, value in medians.items() if not is_ours(name)]
    first = measured[0]["median_ms"]
    # The path that the rule took; the forced ones show whether it was right.
    ours_ms = min(value for name, value in first.items() if is_ours(name) and "path" not in name)
    ratio, name, milliseconds = min(peers)
    row |= {"ours_ms": ours_ms, "naive_ms": first["naive eager"], "over_naive": first["naive eager"] / ours_ms}
    row |= {"best_peer": name, "best_peer_ms": milliseconds, "over_best_peer": ratio}
    row["paths_ms"] = {name.split()[2].rstrip(","): value for name, value in first.items() if ", path " in name}
    rate, latency = floors.get("matrix_rates", {}).get(key[1]), floors.get("flag_latency_s")
    if rate:
        passes = 3 if "backward" in key[2] else 1
        depth = measured[0]["depth"] * (2 if "backward" in key[2] else 1)
        row["floor_ms"] = floor_ms(measured[0]["flops"] * passes, depth, rate, latency)
    return row


def speed_table(rows: list[dict]) -> list[str]:
    heads = ["workload", "precision", "pass", "pdb_ext ms", "step / persistent / aten ms", "naive eager ms", "over naive"]
    heads += ["best peer", "over best peer", "over the floor"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        head = f"| {row['workload']} | {row['precision']} | {row['pass']} |"
        if "error" in row:
            lines.append(f"{head} {row['error']} | | | | | | |")
            continue
        paths = " / ".join(f"{row['paths_ms'][path]:.3f}" if path in row["paths_ms"] else "-" for path in PATHS)
        floor = f"{row['ours_ms'] / row['floor_ms']:.1f}x of {row['floor_ms']:.3f} ms" if "floor_ms" in row else ""
        lines.append(
            f"{head} {row['ours_ms']:.3f} | {paths} | {row['naive_ms']:.3f} | {row['over_naive']:.1f}x |"
            f" {row['best_peer']}, {row['best_peer_ms']:.3f} ms | {row['over_best_peer']:.2f}x | {floor} |"
        )
    return lines


def memory_table(results: list[dict]) -> list[str]:
    lines = ["| workload | precision | implementation | peak MiB of a training step | of naive eager |", "|---|---|---|---|---|"]
    for result in (result for result in results if result["group"] == "memory"):
        head = f"| {result['workload']} | {result['precision']} |"
        if "error" in result:
            lines.append(f"{head} {result['error']} | | |")
        peaks = result.get("peak_bytes", {})
        for name, value in peaks.items():
            if value is not None:
                part = f"{value / peaks['naive eager']:.2f}" if "naive eager" in peaks else ""
                lines.append(f"{head} {name} | {value / 2**20:.0f} | {part} |")
    return lines


def failed_contestants(results: list[dict]) -> list[str]:
    """Who was wrong, or did not run, and why."""
    lines = []
    for result in results:
        head = f"| {result['workload']} | {result['precision']} | {result['pass']} |"
        lines += [f"{head} {name} | {why.replace('|', '/')} |" for name, why in result.get("failed", {}).items()]
    heads = ["## Contestants that failed", "", "| workload | precision | pass | contestant | why |", "|---|---|---|---|---|"]
    return [*heads, *lines, ""] if lines else []


def every_contestant(results: list[dict]) -> list[str]:
    lines = ["| workload | precision | pass | contestant | median ms | quartiles |", "|---|---|---|---|---|---|"]
    for result in (result for result in results if "times_ms" in result):
        head = f"| {result['workload']} | {result['precision']} | {result['pass']} |"
        for name, times in sorted(result["times_ms"].items(), key=lambda item: result["median_ms"][item[0]]):
            ordered = sorted(times)
            low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
            lines.append(f"{head} {name} | {result['median_ms'][name]:.3f} | {low:.3f} - {high:.3f} |")
    return lines


def write(folder: Path, report: dict) -> None:
    """gpu_check.json and gpu_check.md, whatever parts of the report there are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    results, floors = report["benchmark"], report["floors"]
    lines = ["# GPU check", "", *(f"- {key}: {value}" for key, value in report["machine"].items())]
    lines += [f"- {name}: {value}" for name, value in floors.items()]
    lines += ["", "| check | result | seconds |", "|---|---|---|"]
    for name, check in report["checks"].items():
        word = "did not end in its time" if check.get("late") else WORDS[check["passed"]]
        lines.append(f"| {name} | {word} | {check['seconds']} |")
    lines += [
        "", "pdb_ext: as it is or in a CUDA graph, whichever is faster, on the path that its rule picks; beside it every path",
        "forced, in a CUDA graph. Medians of interleaved rounds. The floor is the larger of the operations at the measured rate",
        "of large matrix products and the dependent steps at the measured latency of a flag.",
        "", *speed_table(speed_rows(results, floors)), "", *memory_table(results), "", *failed_contestants(results),
        "## Every contestant", "",
        *every_contestant(results),
    ]  # fmt: skip
    (folder / "gpu_check.md").write_text("\n".join(lines) + "\n")
