"""How long one warp alone would take for a path through a kernel, and how often it waits for global memory.

Instructions issue in order, each after the stall count of the one before. A wait for a scoreboard lasts until the
instruction that holds it has its result: issue plus the latency of sass_machine.py. Loads that are in flight together
cost one round trip: a load belongs to the round trip during which it was issued, and the first wait for one of them
ends it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from sass_machine import JUMP, OPERANDS_READ, timing
from sass_parse import Instruction


@dataclass
class Executed:
    """An instruction on the path. cycles: wait, stall count and blocking time. trips: 1 if it ended a round trip."""

    instruction: Instruction
    cycles: float
    trips: int
    in_flight: int  # loads from global memory in flight when it waited for one of them


@dataclass
class Run:
    executed: list[Executed]

    @property
    def instructions(self) -> int:
        return len(self.executed)

    @cached_property
    def cycles(self) -> float:
        return sum(e.cycles for e in self.executed)

    @property
    def trips(self) -> int:
        return sum(e.trips for e in self.executed)

    @property
    def in_flight(self) -> int:
        return max((e.in_flight for e in self.executed), default=0)

    @property
    def loads(self) -> int:
        return sum(timing(e.instruction).from_memory or timing(e.instruction).copies for e in self.executed)

    def busy(self, warps: int) -> float:
        """Cycles that a given number of warps keep a scheduler busy: by the instruction count, or by one pipe."""
        pipes: dict[str | None, float] = {}
        for e in self.executed:
            t = timing(e.instruction)
            pipes[t.pipe] = pipes.get(t.pipe, 0) + t.interval
        return warps * max([self.instructions, *pipes.values()])

    def part(self, belongs: Callable[[Instruction], bool]) -> "Run":
        return Run([e for e in self.executed if belongs(e.instruction)])


@dataclass
class _Pending:
    """What holds a scoreboard. load: the number of round trips before it, if it is a load from global memory."""

    ready: float
    load: int | None = None
    count: int = 1  # loads of a group


@dataclass
class _Warp:
    time: float = 0
    trips: int = 0
    scoreboards: list[list[_Pending]] = field(default_factory=lambda: [[] for _ in range(6)])
    copies: list[_Pending] = field(default_factory=list)  # into shared memory, in no group yet
    pipes: dict[str | None, float] = field(default_factory=dict)

    def wait(self, awaited: list[_Pending]) -> tuple[int, int]:
        """Continue when all of these have arrived. Returns (round trips that this ends, loads that were in flight)."""
        loads = [p.load for p in awaited if p.load is not None]
        pending = [*awaited, *self.copies, *(p for board in self.scoreboards for p in board)]
        flying = sum(p.count for p in pending if p.load is not None and p.ready > self.time)
        self.time = max([self.time, *(p.ready for p in awaited)])
        trips = max([self.trips, *(load + 1 for load in loads)]) - self.trips
        self.trips += trips
        return trips, flying if trips else 0


def run(path: list[Instruction]) -> Run:
    """Simulate the instructions one after the other."""
    warp, result = _Warp(), []
    for instruction, following in zip(path, [*path[1:], None]):
        begin = warp.time
        trips, flying = warp.wait(_awaited(instruction, warp))
        _issue(instruction, warp)
        warp.time += max(instruction.control.stall, 1) + timing(instruction).blocks
        if following is not None and following.address != instruction.address + 16:
            warp.time += JUMP
        result.append(Executed(instruction, warp.time - begin, trips, flying))
    return Run(result)


def _awaited(instruction: Instruction, warp: _Warp) -> list[_Pending]:
    """Takes what the instruction waits for off the scoreboards."""
    awaited, boards = [], dict.fromkeys(instruction.control.wait, 0)
    if instruction.opcode == "DEPBAR.LE":  # DEPBAR.LE SB0, 0x1: all but the last one
        board, left = instruction.operands.split(",")[:2]
        boards[int(board.removeprefix("SB"))] = int(left, 16)
    for board, left in boards.items():
        pending = warp.scoreboards[board]
        done = len(pending) - left if left else len(pending)
        awaited += pending[: max(done, 0)]
        del pending[: max(done, 0)]
    if instruction.name == "SYNCS" and "TRYWAIT" in instruction.opcode:  # a barrier in shared memory, for bulk copies
        awaited += warp.copies
        warp.copies = []
    return awaited


def _issue(instruction: Instruction, warp: _Warp) -> None:
    t, control = timing(instruction), instruction.control
    start = max(warp.time, warp.pipes.get(t.pipe, 0)) if t.pipe else warp.time
    warp.pipes[t.pipe] = start + t.interval
    pending = _Pending(start + t.latency, warp.trips if t.from_memory or t.copies else None)
    if t.copies:
        warp.copies.append(pending)
    elif instruction.name == "LDGDEPBAR":  # a group of copies holds scoreboard 0
        ready = max((p.ready for p in warp.copies), default=warp.time)
        load = max((p.load for p in warp.copies), default=None)
        warp.scoreboards[0].append(_Pending(ready, load, len(warp.copies)))
        warp.copies = []
    elif control.write is not None:
        warp.scoreboards[control.write].append(pending)
    if control.read is not None and control.read != control.write:
        warp.scoreboards[control.read].append(_Pending(warp.time + OPERANDS_READ))
