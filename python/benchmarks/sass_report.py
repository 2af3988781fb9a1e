"""The tables of sass.py: one kernel with its loops, its lines, and two versions beside each other."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

from sass_compile import Compiled, Sources
from sass_flow import Loop
from sass_machine import CLASSES, class_of
from sass_model import Run
from sass_parse import Instruction, Place
from sass_way import Ways

COLUMNS = f"{'instr.':>8}{'loads':>7}{'trips':>7}{'flight':>7}{'alone':>8}{'busy':>8}{'passes':>8}  "
Belongs = Callable[[Instruction], bool]
_ORDER = [name for name, _ in CLASSES]


@dataclass
class Numbers:
    """The numbers of a path, or of part of one."""

    instructions: int
    loads: int
    trips: int
    in_flight: int
    alone: int  # cycles of one warp
    busy: int  # cycles of a scheduler with all its warps

    @classmethod
    def of(cls, run: Run, warps: int) -> "Numbers":
        return cls(run.instructions, run.loads, run.trips, run.in_flight, round(run.cycles), round(run.busy(warps)))

    def row(self, passes: int | None = None) -> str:
        cells = (self.instructions, self.loads, self.trips, self.in_flight, self.alone, self.busy)
        widths = (8, 7, 7, 7, 8, 8)
        text = "".join(f"{cell or '-':>{width},}" if cell else f"{'-':>{width}}" for cell, width in zip(cells, widths))
        return text + f"{passes or '':>8}  "


def holds(instructions: Iterable[Instruction]) -> str:
    """ "16 HMMA, 4 LDS.128": what the instructions are, as far as it matters."""
    counts = Counter(filter(None, map(class_of, instructions)))
    return ", ".join(f"{counts[name]} {name}" for name in sorted(counts, key=lambda n: _ORDER.index(n.split(".")[0])))


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


class KernelReport:
    """The report on one kernel. part: the instructions that were asked for, if not all."""

    def __init__(self, compiled: Compiled, ways: Ways, sources: Sources, warps: int | None, part: Belongs | None):
        self.compiled, self.ways, self.sources, self._part = compiled, ways, sources, part
        self.warps = warps or compiled.warps()

    def set_passes(self, pattern: str, number: int) -> None:
        """For the loops whose line matches. To be called first."""
        for _, loop in self.ways.flow.all_loops():
            if re.search(pattern, self.sources.text(self._loop_line(loop))):
                loop.passes = number

    @cached_property
    def size(self) -> int:
        """Instructions that can be reached, subroutines included."""
        return sum(len(block.instructions) for flow in self.ways.flows.values() for block in flow.blocks.values())

    @cached_property
    def whole(self) -> Numbers:
        """The path through everything, or the part of it that was asked for."""
        run = self.ways.whole
        return Numbers.of(run.part(self._part) if self._part else run, self.warps)

    def heading(self) -> str:
        c = self.compiled
        spills = f"{c.spills} bytes of spills, {c.stack} of stack" if c.spills or c.stack else "no spills"
        return (
            f"{c.name}\n  {c.registers} registers, {spills}, {c.shared:,} bytes of static shared memory, "
            f"{self.size:,} instructions, {self.warps} warp{'s' * (self.warps > 1)} a scheduler"
        )

    def known_passes(self) -> list[int]:
        return sorted(loop.passes for _, loop in self.ways.flow.all_loops() if loop.passes)

    def part(self) -> list[str]:
        """A row for what was asked for."""
        found = [i for i in self.compiled.kernel.instructions if self._part and self._part(i)]
        return [COLUMNS + "what", self.whole.row() + cut(f"{len(found):,} instructions in all: {holds(found)}", 65)]

    def numbers(self) -> dict:
        """Everything, for a file."""
        c = self.compiled
        loops = [
            {"line": self.loop_place(loop), "depth": depth, "passes": loop.passes, "holds": self.own(loop)}
            | asdict(Numbers.of(self.ways.loop(loop), self.warps))
            for depth, loop in self.ways.flow.all_loops()
        ]
        usage = {"registers": c.registers, "stack": c.stack, "spills": c.spills, "shared": c.shared, "size": self.size}
        return {
            "kernel": c.name,
            "file": c.file.name,
            "warps": self.warps,
            **usage,
            **asdict(self.whole),
            "loops": loops,
        }

    def loops(self) -> list[str]:
        """A row for the path through everything, and one for a pass of every loop, indented by nesting."""
        lines = [COLUMNS + "where", Numbers.of(self.ways.whole, self.warps).row() + "once through everything"]
        for depth, loop in self.ways.flow.all_loops():
            label = "  " * (depth + 1) + self.loop_place(loop) + "  " + self.own(loop)
            lines.append(Numbers.of(self.ways.loop(loop), self.warps).row(loop.passes) + cut(label, 65))
        return lines

    def blocks(self, least: int) -> list[str]:
        """The larger blocks, each alone."""
        lines = [COLUMNS + "block"]
        for number, block in sorted(self.ways.flow.blocks.items()):
            if len(block.instructions) < least:
                continue
            places = Counter(i.places[0] for i in block.instructions if i.places)
            place = self.sources.name(places.most_common(1)[0][0]) if places else ""
            label = f"  {place}  {holds(block.instructions)}"
            lines.append(Numbers.of(self.ways.block(number), self.warps).row() + cut(label, 65))
        return lines

    def loop_place(self, loop: Loop) -> str:
        return self.sources.name(self._loop_line(loop))

    def _loop_line(self, loop: Loop) -> Place:
        places = self.ways.flow.blocks[loop.latches[-1]].instructions[-1].places
        loops = [p for p in places if re.match(r"(for|while|do|\} while)\b", self.sources.text(p))]
        return (loops or list(places) or [("", 0)])[0]

    def own(self, loop: Loop) -> str:
        """What the loop holds outside of the loops in it."""
        blocks = loop.blocks - {number for child in loop.children for number in child.blocks}
        return holds(i for number in sorted(blocks) for i in self.ways.flow.blocks[number].instructions)

    def lines(self, share: float) -> list[str]:
        """Where the instructions on the path come from: the kernel's lines, and below each those inlined there."""
        rows = [COLUMNS[:-10] + "  line"]
        whole = self.ways.whole.part(self._part) if self._part else self.ways.whole

        def walk(run: Run, depth: int) -> None:
            groups: dict[Place, list] = {}
            for e in run.executed:
                if len(e.instruction.places) > depth:
                    groups.setdefault(e.instruction.places[-1 - depth], []).append(e)
            for place, executed in sorted(groups.items(), key=lambda item: item[0]):
                part = Run(executed)
                if part.cycles < share * whole.cycles:
                    continue
                label = "  " * depth + self.sources.name(place) + "  " + self.sources.text(place)
                rows.append(Numbers.of(part, self.warps).row()[:-10] + "  " + cut(label, 76))
                walk(part, depth + 1)

        walk(whole, 0)
        return rows
