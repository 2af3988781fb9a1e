"""The tables of gpu_check.py, from what its parts have found; each stage adds to gpu_check.json and gpu_check.md."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from gpu.predictions import measured, prediction_table
from gpu.processes import ROOT, TIME_WAS_UP

PATHS = ("step", "persistent", "aten")
WORDS = {True: "passed", False: "FAILED", None: "not run"}
TIMES = """\
Milliseconds of one call, medians of interleaved rounds. device: CUDA events behind a kernel that only waits: launches
cost no contestant anything; wall: calls in a row and one wait, as a user sees it. The L2 cache is warm, except in
the column flushed; clocks are as found. Ratios are of device times; JAX has only wall times, and is compared by them.
pdb_ext: as it is or in a CUDA graph, whichever is faster, on the path that its rule picks; beside it every path forced,
in a CUDA graph. The floor is the larger of the operations at the measured rate of large matrix products and
the dependent steps at the measured latency of a flag."""


def floor_ms(flops: float, depth: int, rate: float, latency: float | None) -> float:
    """The larger of arithmetic at the matrix rate and `depth` dependent steps of one flag each, in milliseconds."""
    return 1e3 * max(flops / rate, depth * (latency or 0.0))


def is_unmeasured(result: dict) -> bool:
    """Because there was no time, or a package is missing."""
    return result.get("error", "").startswith("not measured")


def is_ours(name: str) -> bool:
    return name.startswith("pdb_ext")


def median(result: dict, name: str, kind: str = "device") -> float | None:
    values = result.get("times", {}).get(name, {}).get(f"{kind}_ms")
    return values[1] if values else None


def best_of_ours(result: dict, kind: str) -> float | None:
    """On the path that the rule takes; the forced ones show whether it was right."""
    names = ("pdb_ext", "pdb_ext in a CUDA graph")
    return min((value for name in names if (value := median(result, name, kind)) is not None), default=None)


def speed_rows(results: list[dict], floors: dict) -> list[dict]:
    """One row for each workload, precision and pass: its groups of contestants put together.

    Ratios are taken within a group, whose contestants were measured in turns. The best peer has the smallest ratio.
    """
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        if result["group"] != "memory":
            groups.setdefault((result["workload"], result["precision"], result["pass"]), []).append(result)
    return [_speed_row(key, group, floors) for key, group in groups.items()]


def peers_of(result: dict) -> list[tuple[float, str, float]]:
    """(ratio to ours, name, milliseconds) of every other contestant in a group."""
    peers = []
    for name in filter(lambda name: not is_ours(name), result.get("times", {})):
        kind = "device" if median(result, name) is not None else "wall"
        if ours := best_of_ours(result, kind):
            peers.append((median(result, name, kind) / ours, name, median(result, name, kind)))
    return peers


def _speed_row(key: tuple, group: list[dict], floors: dict) -> dict:
    row = dict(zip(("workload", "precision", "pass"), key))
    peers = [peer for result in group for peer in peers_of(result)]
    # Ours or all others may have failed alone: without both there is no ratio.
    eager = next((result for result in group if median(result, "naive eager") and best_of_ours(result, "device")), None)
    if eager is None:
        return row | {"error": group[0].get("error", "pdb_ext or naive eager failed: see below")}
    ours_ms, naive_ms = best_of_ours(eager, "device"), median(eager, "naive eager")
    ratio, name, milliseconds = min(peers)
    row["unmeasured"] = [result["group"] for result in group if is_unmeasured(result)]
    row |= {"ours_ms": ours_ms, "naive_ms": naive_ms, "over_naive": naive_ms / ours_ms}
    row["over_naive_wall"] = median(eager, "naive eager", "wall") / best_of_ours(eager, "wall")
    row |= {"best_peer": name, "best_peer_ms": milliseconds, "over_best_peer": ratio}
    forced = {path: median(eager, f"pdb_ext, path {path}, in a CUDA graph") for path in PATHS}
    row["paths_ms"] = {path: value for path, value in forced.items() if value is not None}
    rate, latency = floors.get("matrix_rates", {}).get(key[1]), floors.get("flag_latency_s")
    if rate:
        passes = 3 if "backward" in key[2] else 1
        depth = eager["depth"] * (2 if "backward" in key[2] else 1)
        row["floor_ms"] = floor_ms(eager["flops"] * passes, depth, rate, latency)
    return row


def speed_table(rows: list[dict]) -> list[str]:
    heads = ["workload", "precision", "pass"]
    heads += ["pdb_ext ms", "step / persistent / aten ms", "naive eager ms", "over naive"]
    heads += ["over naive, wall", "best peer", "over best peer", "over the floor"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    later = [row for row in rows if row.get("error") == TIME_WAS_UP]
    for row in rows:
        head = f"| {row['workload']} | {row['precision']} | {row['pass']} |"
        if row in later:
            continue
        if "error" in row:
            lines.append(f"{head} {row['error']} | | | | | | | |")
            continue
        paths = " / ".join(f"{row['paths_ms'][path]:.3f}" if path in row["paths_ms"] else "-" for path in PATHS)
        without = f" (not measured: {', '.join(row['unmeasured'])})" if row["unmeasured"] else ""
        floor = f"{row['ours_ms'] / row['floor_ms']:.1f}x of {row['floor_ms']:.3f} ms" if "floor_ms" in row else ""
        lines.append(
            f"{head} {row['ours_ms']:.3f} | {paths} | {row['naive_ms']:.3f} | {row['over_naive']:.1f}x |"
            f" {row['over_naive_wall']:.1f}x | {row['best_peer']}, {row['best_peer_ms']:.3f} ms{without} |"
            f" {row['over_best_peer']:.2f}x | {floor} |"
        )
    if later:
        names = sorted({f"{row['workload']} ({row['precision']})" for row in later})
        lines += ["", f"{len(later)} rows were not measured, {TIME_WAS_UP}: {'; '.join(names)}."]
    return lines


def memory_table(results: list[dict]) -> list[str]:
    lines = [
        "| workload | precision | implementation | peak MiB of a training step | of naive eager |",
        5 * "|---" + "|",
    ]
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
    """Which contestants were wrong or did not run, and why; and which did not fit on the chip."""
    lines = []
    for result in results:
        head = f"| {result['workload']} | {result['precision']} | {result['pass']} |"
        missing = result.get("failed", {}) | result.get("left_out", {})
        lines += [f"{head} {name} | {one_line(why)} |" for name, why in missing.items()]
        if "error" in result and not is_unmeasured(result):
            lines.append(f"{head} all of {result['group']} | {one_line(result['error'])} |")
    heads = [
        "## Contestants that failed",
        "",
        "| workload | precision | pass | contestant | why |",
        "|---|---|---|---|---|",
    ]
    return [*heads, *lines, ""] if lines else []


def one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]


def every_contestant(results: list[dict]) -> list[str]:
    heads = ["workload", "precision", "pass", "contestant", "device ms", "quartiles", "hidden", "wall ms", "quartiles"]
    heads.append("flushed ms")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in (result for result in results if "times" in result):
        head = f"| {result['workload']} | {result['precision']} | {result['pass']} |"
        median_of = lambda item: item[1].get("device_ms", item[1]["wall_ms"])[1]
        for name, times in sorted(result["times"].items(), key=median_of):
            cells = []
            for kind in ("device", "wall", "flushed"):
                low, middle, high = times.get(f"{kind}_ms", (None, None, None))
                cells.append("" if middle is None else f"{middle:.4f}")
                cells += [] if kind == "flushed" else ["" if middle is None else f"{low:.4f} - {high:.4f}"]
                cells += [f"{times['hidden']:.0%}" if "hidden" in times else ""] if kind == "device" else []
            lines.append(f"{head} {name} | {' | '.join(cells)} |")
    return lines


def kernel_tables(profile: dict[str, dict]) -> list[str]:
    """What a call of the paper's module launches."""
    lines = []
    for key, result in profile.items():
        if "error" in result:
            lines += [f"Kernels, {key}: {one_line(result['error'])}", ""]
            continue
        lines += [f"Kernels, {key}: {result['launches']:.0f} launches, {result['us']:.1f} us", ""]
        lines += ["| kernel | launches | us |", "|---|---|---|"]
        lines += [f"| {one_line(row['kernel'])} | {row['count']:g} | {row['us']:.1f} |" for row in result["kernels"]]
        lines.append("")
    return lines


def markdown(report: dict) -> str:
    results, floors = list(report["benchmark"].values()), report["floors"]
    lines = ["# GPU check", ""]
    for stage, machine in report["machines"].items():
        lines.append(f"- {stage}: {', '.join(f'{key} {value}' for key, value in machine.items())}")
    lines += [f"- {name}: {value}" for name, value in floors.items()]
    lines += ["", "| check | result | seconds |", "|---|---|---|"]
    for name, check in report["checks"].items():
        word = "did not end in its time" if check.get("late") else WORDS[check["passed"]]
        lines.append(f"| {name} | {word} | {check['seconds']} |")
    lines += ["", "| path, precision | result | error |", "|---|---|---|"]
    for key, answer in report["answers"].items():
        words = answer.get("words") or answer.get("error", "")
        lines.append(f"| {key.replace(' | ', ', ')} | {WORDS[answer.get('passed', False)]} | {one_line(words)} |")
    lines += ["", *prediction_table(report), "", TIMES, "", *speed_table(speed_rows(results, floors)), ""]
    lines += [*memory_table(results), "", *failed_contestants(results), *kernel_tables(report["profile"])]
    for kernel, metrics in report["ncu"].items():
        lines.append(f"- ncu, {kernel}: {', '.join(f'{name} {value}' for name, value in metrics.items())}")
    return "\n".join([*lines, "", "## Every contestant", "", *every_contestant(results)]) + "\n"


def without_paths(text: str) -> str:
    """The text without the folders of this machine, in which programs report files: results are published."""
    names = {str(Path.home()): "HOME", tempfile.gettempdir(): "TMP", sys.prefix: "PYTHON", str(ROOT): "."}
    for folder in sorted(names.keys() - {"/"}, key=len, reverse=True):  # one may lie in another
        name = names[folder]
        text = text.replace(f"{folder}/", f"{name}/").replace(f"rootdir: {folder}", f"rootdir: {name}")
    return text


def write(folder: Path, report: dict, copy: Path | None = None) -> None:
    """gpu_check.json and gpu_check.md, from the parts of the report that exist; complete at every moment."""
    everything = json.dumps(report | {"measured": measured(report)}, indent=1) + "\n"
    for name, text in (("gpu_check.json", everything), ("gpu_check.md", markdown(report))):
        new = folder / f".{name}"
        new.write_text(without_paths(text))
        os.replace(new, folder / name)
    if copy is not None:
        for path in folder.glob("gpu_*"):
            shutil.copy(path, copy)
