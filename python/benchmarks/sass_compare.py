"""Two versions of the kernels beside each other."""

from collections import Counter

from sass_report import KernelReport

COLUMNS = ("registers", "spills", "size", "on the path", "loads", "trips", "flight", "alone", "busy")


def compare(before: list[KernelReport], now: list[KernelReport]) -> list[str]:
    """A table: every kernel's name, and below it the old and new numbers; kernels of one version only come last."""
    old, new = _by_name(before), _by_name(now)
    both = [name for name in new if name in old]
    rows = [COLUMNS, *(tuple(map(_change, _values(old[name]), _values(new[name]))) for name in both)]
    widths = [max(map(len, column)) + 2 for column in zip(*rows)]
    heading, *rows = ("".join(f"{cell:>{width}}" for cell, width in zip(row, widths)) for row in rows)
    lines = [heading]
    for name, row in zip(both, rows):
        lines += [name, row]
        if (was := old[name].known_passes()) != (are := new[name].known_passes()):
            lines.append(f"    mind the passes: the loops of known length ran {was} times, now {are}")
    lines += [f"only before: {name}" for name in old if name not in new]
    lines += [f"only now: {name}" for name in new if name not in old]
    return lines


def _by_name(reports: list[KernelReport]) -> dict[str, KernelReport]:
    """With the file's name, where two files have kernels of one name."""
    counts = Counter(report.compiled.name for report in reports)
    names = [report.compiled.name for report in reports]
    keys = [name if counts[name] == 1 else f"{name} in {r.compiled.file.name}" for name, r in zip(names, reports)]
    return dict(zip(keys, reports))


def _values(report: KernelReport) -> tuple[int, ...]:
    c, n = report.compiled, report.whole
    return c.registers, c.spills, report.size, n.instructions, n.loads, n.trips, n.in_flight, n.alone, n.busy


def _change(before: int, now: int) -> str:
    return f"{now:,}" if before == now else f"{before:,} -> {now:,}"
