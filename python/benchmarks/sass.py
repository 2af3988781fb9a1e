"""What a change does to the CUDA kernels, without a GPU: `python python/benchmarks/sass.py [FILES] [--against COMMIT]`.

The sources of csrc/cuda (all, or FILES) are compiled for one architecture and disassembled. A FILE is the name of a
source, which may have namesakes in other folders, or the end of its path, such as persistent/forward.cu. For every
kernel the tables show

    instr.   instructions on the path through it, or through one pass of a loop (sass_way.py says which path that is)
    loads    of these, loads from global memory
    trips    round trips to memory: how often a warp waits for such loads
    flight   the most loads in flight at a wait
    alone    cycles of one warp alone, with the compiler's own stall counts and the latencies of sass_machine.py
    busy     cycles that a scheduler would be busy with all warps of a block, if none ever waited
    passes   of a loop, if its length is known; otherwise a loop counts once in the code around it
    size     instructions in all (with --against)

The larger of alone and busy is the estimate for a block. Loops are named by their line, blocks by the line that most of
their instructions come from.

    python python/benchmarks/sass.py persistent/forward.cu --kernel 'persistent_kernel.*MmaCore'     loops
    python python/benchmarks/sass.py persistent/forward.cu --by-line                                  source lines
    python python/benchmarks/sass.py persistent/forward.cu --at 'policy.finish' --against HEAD~1      one region
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from sass_compare import compare
from sass_compile import Compiled, Sources, compile_kernels, shortened, sources, worktree
from sass_parse import Instruction
from sass_report import KernelReport
from sass_way import Ways

ROOT = Path(__file__).resolve().parents[2]


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="below csrc/cuda: a name, or the end of a path"
    )
    parser.add_argument("--kernel", default="", metavar="REGEX", help="only kernels whose name matches")
    parser.add_argument("--against", metavar="COMMIT", help="compare with the kernels of this commit")
    parser.add_argument("--at", metavar="REGEX", help="only instructions from a matching source line, or inlined there")
    parser.add_argument("--avoid", metavar="REGEX", help="avoid instructions from a matching source line")
    passes = parser.add_argument("--passes", action="append", default=[], type=line_and_number, metavar="REGEX=N")
    passes.help = "number of passes of the compiled loops whose line matches"
    parser.add_argument("--by-line", action="store_true", help="show the source lines on the path instead of the loops")
    parser.add_argument(
        "--share", type=float, default=0.02, help="least share of the cycles of a line shown (default: %(default)s)"
    )
    parser.add_argument("--blocks", type=int, metavar="N", help="also show the blocks of at least N instructions")
    parser.add_argument("--warps", type=int, help="on a scheduler (default: those of one block)")
    parser.add_argument("--architecture", default="90a", metavar="NUMBER")
    parser.add_argument("--repository", type=Path, default=ROOT, metavar="FOLDER", help="default: this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser.parse_args(given)


def line_and_number(text: str) -> tuple[str, int]:
    pattern, _, number = text.rpartition("=")
    return pattern, int(number)


def matcher(pattern: str | None, lines: Sources) -> Callable[[Instruction], bool]:
    """Whether an instruction comes from a source line that matches, or is inlined at one."""
    if not pattern:
        return lambda _: False
    return lambda instruction: any(re.search(pattern, lines.text(place)) for place in instruction.places)


def examine(root: Path, options: argparse.Namespace) -> list[KernelReport]:
    """Compiles the kernels asked for, and finds the path through each."""
    compiled: list[Compiled] = []
    for source in sources(root, options.files):
        compiled += [
            c for c in compile_kernels(root, source, options.architecture) if re.search(options.kernel, c.name)
        ]
    for each, name in zip(compiled, shortened([c.name for c in compiled])):
        each.name = name
    lines = Sources(compiled)
    prefer, avoid = matcher(options.at, lines), matcher(options.avoid, lines)
    part = prefer if options.at else None
    reports = [KernelReport(c, Ways(c.kernel, prefer, avoid), lines, options.warps, part) for c in compiled]
    for report in reports:
        for pattern, number in options.passes:
            report.set_passes(pattern, number)
    return reports


def show(report: KernelReport, options: argparse.Namespace) -> None:
    print("\n" + report.heading())
    lines = report.part() if options.at else [] if options.by_line else report.loops()
    lines += report.lines(options.share) if options.by_line else []
    lines += report.blocks(options.blocks) if options.blocks else []
    print("\n".join(lines))


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    now, before = examine(options.repository, options), []
    if not now:
        raise SystemExit("no such file, or no such kernel in it")
    if options.against:
        with worktree(options.repository, options.against) as folder:
            before = examine(folder, options)
        print("\n".join(compare(before, now)))
    else:
        for report in now:
            show(report, options)
    if options.json:
        result = {"architecture": options.architecture, "kernels": [report.numbers() for report in now]}
        result |= {"against": options.against, "before": [report.numbers() for report in before]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
