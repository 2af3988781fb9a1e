"""Which path a warp takes through a kernel, so that it can be timed.

The path is the longest one, for a warp that does not diverge: every `if` is taken that leads to more work. Two things
are avoided where possible: subroutines (the slow case of a division), and the remainder of an unrolled loop. Every loop
runs as often as is known, otherwise once.
"""

from collections.abc import Callable
from functools import cached_property

from sass_flow import Block, Flow, Loop
from sass_machine import is_memory
from sass_model import Run, run
from sass_parse import Instruction, Kernel, Place

DETOUR = 400  # cycles of other work that make the path lead through what it otherwise avoids
PREFERRED = 1000  # cycles that a preferred instruction counts for
Step = int | Loop  # of a path: a block, or a whole loop


class Ways:
    """The path through a kernel, and through each of its loops. prefer, avoid: instructions to go through or around."""

    def __init__(
        self,
        kernel: Kernel,
        prefer: Callable[[Instruction], bool] = lambda _: False,
        avoid: Callable[[Instruction], bool] = lambda _: False,
    ):
        self.kernel, self._prefer, self._avoid = kernel, prefer, avoid
        self.flows = {name: Flow(kernel, instructions) for name, instructions in kernel.functions().items()}
        self.flow = self.flows[kernel.symbol]
        self._leftovers: dict[str, set[int]] = {}
        self._block_worth: dict[tuple[str, int], float] = {}
        self._subroutines: dict[str, list[Instruction]] = {}
        self._passes: dict[int, list[Instruction]] = {}  # one pass of a loop, by its identity

    @cached_property
    def whole(self) -> Run:
        """Once through the kernel."""
        return run(self._through(self.kernel.symbol))

    def loop(self, loop: Loop) -> Run:
        """One pass of a loop that has been running for a while."""
        once = self._pass(self.kernel.symbol, loop)
        return Run(run(once * 3).executed[2 * len(once) :])

    def block(self, number: int) -> Run:
        """A block alone."""
        return run(self.flow.blocks[number].instructions)

    def _through(self, function: str) -> list[Instruction]:
        flow = self.flows[function]
        ends = {number for number, block in flow.blocks.items() if not block.successors}
        return self._instructions(function, self._steps(function, flow.entry, set(flow.blocks), ends, flow.loops))

    def _pass(self, function: str, loop: Loop) -> list[Instruction]:
        if id(loop) not in self._passes:
            steps = self._steps(function, loop.head, loop.blocks, set(loop.latches), loop.children)
            self._passes[id(loop)] = self._instructions(function, steps)
        return self._passes[id(loop)]

    def _instructions(self, function: str, steps: list[Step]) -> list[Instruction]:
        result = []
        for step in steps:
            if isinstance(step, Loop):
                result += self._pass(function, step) * (step.passes or 1)
                continue
            block = self.flows[function].blocks[step]
            result += block.instructions
            if block.call is not None:
                result += self._subroutine(block.call)
        return result

    def _subroutine(self, name: str) -> list[Instruction]:
        if name not in self._subroutines:
            self._subroutines[name] = []  # no recursion
            self._subroutines[name] = self._through(name) if name in self.flows else []
        return self._subroutines[name]

    def _steps(self, function: str, head: int, blocks: set[int], ends: set[int], inner: list[Loop]) -> list[Step]:
        """The longest path from head to one of the ends, within these blocks, where loops count as one step."""
        flow = self.flows[function]
        loop_of = {number: loop for loop in inner for number in loop.blocks}

        def step_of(number: int) -> Step:
            return loop_of.get(number, number)

        def key(step: Step) -> int:
            return step.head if isinstance(step, Loop) else step

        def following(step: Step) -> list[Step]:
            inside = step.blocks if isinstance(step, Loop) else {step}
            targets = {target for number in inside for target in flow.blocks[number].successors} - inside
            return sorted((step_of(target) for target in targets & blocks if target != head), key=key)

        def is_end(step: Step) -> bool:
            return bool(ends & (step.blocks if isinstance(step, Loop) else {step}))

        best: dict[int, tuple[float, Step | None]] = {}
        for step in _postorder(step_of(head), following, key):
            options = [(best[key(s)][0], s) for s in following(step) if key(s) in best]
            options += [(0.0, None)] if is_end(step) else []
            cycles, chosen = max(options, key=lambda option: option[0], default=(float("-inf"), None))
            best[key(step)] = (cycles + self._worth(function, step), chosen)
        path, step = [], step_of(head)
        while step is not None:
            path.append(step)
            step = best[key(step)][1]
        return path

    def _worth(self, function: str, step: Step) -> float:
        """Cycles, and what else speaks for or against this step."""
        if function not in self._leftovers:
            self._leftovers[function] = _leftovers(self.flows[function])
        if isinstance(step, Loop):
            once = self._pass(function, step)
            if not step.children and self._leftovers[function] & step.blocks:
                return -DETOUR
            return run(once * (step.passes or 1)).cycles + PREFERRED * sum(map(self._prefer, once))
        if (function, step) not in self._block_worth:
            block = self.flows[function].blocks[step]
            worth = run(block.instructions).cycles + PREFERRED * sum(map(self._prefer, block.instructions))
            if block.call is not None or step in self._leftovers[function]:
                worth = -DETOUR
            worth -= 1000 * PREFERRED * self._is_avoided(block)
            self._block_worth[function, step] = worth
        return self._block_worth[function, step]

    def _is_avoided(self, block: Block) -> bool:
        """Whether most of a block is to be avoided, or a load in it: other instructions are moved between blocks."""
        found = list(filter(self._avoid, block.instructions))
        return 2 * len(found) > len(block.instructions) or any(map(is_memory, found))


def _leftovers(flow: Flow) -> set[int]:
    """The blocks for the remainder of an unrolled loop: outside of it, but all their loads and stores are for lines for
    which it loads and stores, too. Of several loops for the same lines, the largest is the unrolled one."""
    found: set[int] = set()
    memory = {number: _memory_places(block) for number, block in flow.blocks.items()}
    innermost = [loop for _, loop in flow.all_loops() if not loop.children]
    for loop in sorted(
        innermost, key=lambda loop: -sum(len(flow.blocks[number].instructions) for number in loop.blocks)
    ):
        if found & loop.blocks:
            continue
        places = set().union(*(memory[number] for number in loop.blocks)) - {()}
        found |= {number for number in flow.blocks.keys() - loop.blocks if memory[number] and memory[number] <= places}
    return found


def _memory_places(block: Block) -> set[tuple[Place, ...]]:
    """Where a block's loads and stores come from: those of global memory, if there are any."""
    used = [i for i in block.instructions if is_memory(i)]
    in_global = [i for i in used if i.name in ("LDG", "STG", "LD", "ST", "LDGSTS", "ATOMG", "RED")]
    return {i.places for i in in_global or used}


def _postorder(first: Step, following: Callable[[Step], list[Step]], key: Callable[[Step], int]) -> list[Step]:
    """Every step behind all that can follow it. What leads back into a loop that has two heads is left out."""
    order, seen, stack = [], {key(first)}, [(first, iter(following(first)))]
    while stack:
        step, targets = stack[-1]
        target = next((target for target in targets if key(target) not in seen), None)
        if target is None:
            order.append(stack.pop()[0])
        else:
            seen.add(key(target))
            stack.append((target, iter(following(target))))
    return order
