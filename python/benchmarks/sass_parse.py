"""nvdisasm's listing of a cubin as kernels of instructions: what runs, how it was scheduled, where it comes from.

The upper word of an instruction's 128 bits ends in the compiler's scheduling bits (sm_70 and later): how many cycles to
wait before the next instruction, which of six scoreboards the instruction holds until its result is available or its
operands have been read, and which scoreboards must be free before it starts.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace

NO_SCOREBOARD = 7
Place = tuple[str, int]  # file and line


@dataclass(frozen=True)
class Control:
    """The scheduling bits. write, read: the scoreboard held, or None. wait: those that must be free."""

    stall: int
    yields: bool
    write: int | None
    read: int | None
    wait: tuple[int, ...]

    @classmethod
    def decode(cls, upper: int) -> "Control":
        def scoreboard(shift: int) -> int | None:
            value = upper >> shift & 7
            return None if value == NO_SCOREBOARD else value

        wait = tuple(bit for bit in range(6) if upper >> 52 + bit & 1)
        return cls(upper >> 41 & 15, not upper >> 45 & 1, scoreboard(46), scoreboard(49), wait)


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # "@!P0", or empty
    opcode: str  # "LDG.E.128.STRONG.GPU"
    operands: str
    control: Control
    places: tuple[Place, ...]  # its line, then the lines that the functions around it were inlined at

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def label(self) -> str | None:
        """The label that a branch or call goes to."""
        found = re.search(r"`\(([^)]+)\)", self.operands)
        return found[1] if found else None


@dataclass
class Kernel:
    """A section of code: the kernel, and behind it the subroutines that it calls."""

    symbol: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # index of the instruction behind the label
    threads: int | None = None  # of a block, by the launch bounds

    def functions(self) -> dict[str, range]:
        """The instructions of the kernel and of each of its subroutines, by label."""
        starts = sorted((at, name) for name, at in self.labels.items() if name == self.symbol or name.startswith("$"))
        ends = [*(at for at, _ in starts[1:]), len(self.instructions)]
        return {name: range(at, end) for (at, name), end in zip(starts, ends)}


_SECTION = re.compile(r"\s+\.section\s+\.(text|nv\.info)\.([\w$]+),")
_LABEL = re.compile(r"([\w$.]+):$")
_PLACE = re.compile(r'\s*//## File "([^"]*)", line (\d+)( inlined at)?')
_BOUNDS = re.compile(r"EIATTR_MAX_THREADS\n(?:.*\n)*?" + r"\n".join([r".*\.word\s+(0x\w+)"] * 3))
_INSTRUCTION = re.compile(
    r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+)?\s*(\S+)\s*(.*?)\s*;\s+/\* 0x[0-9a-f]{16} \*/\n\s+/\* 0x([0-9a-f]{16}) \*/"
)


def parse(listing: str) -> list[Kernel]:
    """The kernels of `nvdisasm -hex`, with their lines if it was asked for `-gi`, too."""
    kernels: dict[str, Kernel] = {}
    for part in re.split(r"\n(?=//-{5,})", listing):
        section = _SECTION.search(part)
        if section is None:
            continue
        kernel = kernels.setdefault(section[2], Kernel(section[2]))
        if section[1] == "text":
            _read_code(part, kernel)
            _complete_places(kernel.instructions)
        elif bounds := _BOUNDS.search(part):
            kernel.threads = math.prod(int(value, 16) for value in bounds.groups())
    return [kernel for kernel in kernels.values() if kernel.instructions]


def _read_code(text: str, kernel: Kernel) -> None:
    places: list[Place] = []
    complete = True  # the chain of places that was read last has reached the kernel itself
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if match := _INSTRUCTION.match(text, at):
            address, predicate, opcode, operands, upper = match.groups()
            control = Control.decode(int(upper, 16))
            kernel.instructions.append(
                Instruction(int(address, 16), predicate or "", opcode, operands, control, tuple(places))
            )
            complete, end = True, match.end()
        elif match := _PLACE.match(text, at, end):
            places = [] if complete else places
            places.append((match[1], int(match[2])))
            complete = match[3] is None
        elif match := _LABEL.match(text, at, end):
            kernel.labels[match[1]] = len(kernel.instructions)
            places = [] if match[1].startswith("$") else places
        at = end + 1


def _complete_places(instructions: list[Instruction]) -> None:
    """If the compiler lost the calls that a line was inlined at, the nearest instruction with them supplies them."""
    callers: dict[Place, list[tuple[int, tuple[Place, ...]]]] = defaultdict(list)  # where, and the places around it
    for at, instruction in enumerate(instructions):
        for depth in range(len(instruction.places) - 1):
            callers[instruction.places[depth]].append((at, instruction.places[depth + 1 :]))
    for at, instruction in enumerate(instructions):
        if instruction.places and (known := callers.get(instruction.places[-1])):
            around = min(known, key=lambda entry: abs(entry[0] - at))[1]
            instructions[at] = replace(instruction, places=instruction.places + around)
