"""What gpu_check.py prints last: one screen that says whether everything passed and how the paper's module compares."""

from gpu.jobs import ROWS, TINY
from gpu.predictions import compared
from gpu.report import best_of_ours, is_ours, is_unmeasured, median, one_line

MOST_CONTESTANTS = 15  # of each of four tables
MOST_FAILURES = 20
MOST_LINES = 100  # of at most 110 characters: a tool that shows only the end of an output then shows all of it


def is_failure(result: dict) -> bool:
    """Whether a measurement went wrong, or one of our own contestants in it."""
    wrong = "error" in result and not is_unmeasured(result)
    return wrong or any(is_ours(name) for name in result.get("failed", {}))


def failures(report: dict) -> list[str]:
    """A line for everything that went wrong."""
    lines = [f"{name}: {'did not end in its time' if check.get('late') else 'FAILED'}"
             for name, check in report["checks"].items() if check["passed"] is False]  # fmt: skip
    for key, answer in report["answers"].items():
        if answer.get("passed", False) is False:
            lines.append(f"{key}: {answer.get('words') or answer.get('error')}")
    for key, result in (report["benchmark"] | report["profile"]).items():
        if is_failure(result):
            lines.append(f"{key}: {result.get('error') or result['failed']}")
    return [one_line(line)[:110] for line in lines]


def contestants(results: list[dict]) -> list[str]:
    """One line for each, sorted by its ratio to ours in its group: each contestant once, ours as in the first group.

    Of the peers, only the fastest and the naive implementation.
    """
    rows, seen = [], set()
    for result in results:
        for name, times in result.get("times", {}).items():
            kind = "device" if "device_ms" in times else "wall"
            ours, wall = best_of_ours(result, kind), best_of_ours(result, "wall")
            if name in seen or not ours:
                continue
            seen.add(name)
            low, middle, high = times[f"{kind}_ms"]
            flushed = f"{times['flushed_ms'][1]:8.3f}" if "flushed_ms" in times else " " * 8
            spread = f"{middle:8.3f} {f'[{low:.3f}-{high:.3f}]':<17}" if kind == "device" else " " * 26
            over_wall = f"{median(result, name, 'wall'):8.3f} {median(result, name, 'wall') / wall:6.2f}x"
            mark = " not all hidden" if times.get("hidden", 1) < 0.9 else ""
            keep = is_ours(name) or name.startswith("naive eager")
            line = f"  {name[:47]:<47} {spread} {middle / ours:6.2f}x {over_wall} {flushed}{mark}"
            rows.append((not keep, middle / ours, line))
    return [line for _, line in sorted(row[1:] for row in sorted(rows)[:MOST_CONTESTANTS])]


def screen(report: dict) -> str:
    bad = failures(report)
    passed = sum(answer.get("passed") is True for answer in report["answers"].values())
    lines = ["=" * 110, f"{len(bad)} failures" if bad else "nothing failed", *bad[:MOST_FAILURES]]
    lines += [f"answers: {passed} of {len(report['answers'])} passed"]
    lines += [f"{name}: {'passed' if c['passed'] else 'not run' if c['passed'] is None else 'FAILED'}, {c['seconds']} s"
              for name, c in report["checks"].items()]  # fmt: skip
    for precision in ("bfloat16", "tf32"):
        for name in ("forward", "forward and backward"):
            results = [r for r in report["benchmark"].values() if r["workload"] in (ROWS[0].name, TINY.name)
                       and r["precision"] == precision and r["pass"] == name]  # fmt: skip
            rows = contestants(results)
            heads = f"{'device ms, quartiles':<26}   over     wall ms  over   flushed"
            lines += [f"{f'{precision}, {name}':<49} {heads}", *rows] if rows else []
            why = {f"{r['group']}: {r['error']}" for r in results if "error" in r}
            lines += [f"  {one_line(text)[:100]}" for text in sorted(why)]
    for row in compared(report):
        if row["measured"] is not None:
            low, high = row["range"]
            predicted = f"predicted {row['value']:g} ({low:g} - {high:g})"
            words = f"{row['measured']:.4g} {row['unit']}, {predicted}: {row['verdict']}"
            lines.append(f"{row['key'].replace('PDB module of the paper | ', '').replace(' | ', ', ')}: {words}"[:130])
    return "\n".join(lines[:MOST_LINES])
