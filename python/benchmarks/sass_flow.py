"""The control flow of a kernel: basic blocks, and the loops that they form, one within the other."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sass_parse import Instruction, Kernel

_ENDS_BLOCK = {"BRA", "BRX", "BSYNC", "CALL", "EXIT", "RET", "JMP"}


@dataclass
class Block:
    instructions: list[Instruction]
    successors: list[int]

    @property
    def call(self) -> str | None:
        """The label of the subroutine that the block ends in a call of."""
        last = self.instructions[-1]
        return last.label if last.name == "CALL" else None


@dataclass
class Loop:
    """A natural loop. latches: its blocks that jump back to the head. passes: how often it runs, where that is known."""

    head: int
    blocks: set[int]
    latches: list[int]
    children: list["Loop"] = field(default_factory=list)
    passes: int | None = None


class Flow:
    """The blocks of one function that can be reached, by number; the first is `entry`. loops: the outermost ones."""

    def __init__(self, kernel: Kernel, function: range):
        self._kernel, self._function = kernel, function
        self.entry = function.start
        self.blocks = {}
        starts = self._starts()
        waiting = [self.entry]
        while waiting:
            start = waiting.pop()
            if start in self.blocks or start not in function:
                continue
            end = next(at for at in starts if at > start)
            block = Block(kernel.instructions[start:end], [])
            block.successors = list(dict.fromkeys(self._targets(end - 1)))
            self.blocks[start] = block
            waiting += block.successors
        for block in self.blocks.values():
            block.successors = [target for target in block.successors if target in self.blocks]
        self.loops = self._find_loops()

    def all_loops(self) -> Iterator[tuple[int, Loop]]:
        """(depth, loop), each before its children, in the order of the code."""

        def walk(loops: list[Loop], depth: int) -> Iterator[tuple[int, Loop]]:
            for loop in sorted(loops, key=lambda loop: loop.head):
                yield depth, loop
                yield from walk(loop.children, depth + 1)

        return walk(self.loops, 0)

    def _starts(self) -> list[int]:
        starts = {self._function.start, self._function.stop, *self._kernel.labels.values()}
        starts |= {at + 1 for at in self._function if self._kernel.instructions[at].name in _ENDS_BLOCK}
        return sorted(start for start in starts if self._function.start <= start <= self._function.stop)

    def _targets(self, at: int) -> list[int]:
        """Where the instruction at `at` can lead to, in a warp that is not split."""
        instruction, following = self._kernel.instructions[at], [at + 1]
        labels = [self._kernel.labels[name] for name in re.findall(r"\.L_x?_?\d+", instruction.operands)]
        if instruction.opcode.startswith("BRA.DIV"):
            return following
        if instruction.name in ("BRA", "JMP", "BRX"):
            conditional = instruction.predicate or not re.match(r"`\(|R\d", instruction.operands)
            return labels + (following if conditional else [])
        if instruction.name in ("EXIT", "RET"):
            return following if instruction.predicate else []
        if instruction.name == "BSYNC":
            return [self._joint(at)]
        return following

    def _joint(self, at: int) -> int:
        """Where a BSYNC goes on: at the label of the BSSY of its register, which mostly is the next instruction."""
        register, joints = self._kernel.instructions[at].operands.split(",")[0], []
        for before in range(at - 1, self._function.start - 1, -1):
            instruction = self._kernel.instructions[before]
            if instruction.name == "BSSY" and instruction.operands.split(",")[0] == register:
                joints.append(self._kernel.labels[instruction.label])
        return at + 1 if at + 1 in joints or not joints else joints[0]

    def _find_loops(self) -> list[Loop]:
        dominators = self._dominators()
        latches: dict[int, list[int]] = {}
        for number, block in self.blocks.items():
            for target in block.successors:
                if target in dominators[number]:
                    latches.setdefault(target, []).append(number)
        loops = [Loop(head, self._body(head, tails), tails) for head, tails in latches.items()]
        outermost = []
        for loop in sorted(loops, key=lambda loop: len(loop.blocks)):
            around = [other for other in loops if other is not loop and loop.head in other.blocks]
            around = [other for other in around if len(other.blocks) > len(loop.blocks)]
            parent = min(around, key=lambda other: len(other.blocks), default=None)
            (parent.children if parent else outermost).append(loop)
            loop.passes = self._passes(loop)
        return outermost

    def _dominators(self) -> dict[int, set[int]]:
        order = self._reverse_postorder()
        before: dict[int, list[int]] = {number: [] for number in order}
        for number in order:
            for target in self.blocks[number].successors:
                before[target].append(number)
        dominators = {number: set(order) for number in order}
        dominators[self.entry] = {self.entry}
        changed = True
        while changed:
            changed = False
            for number in order[1:]:
                new = set.intersection(*(dominators[other] for other in before[number])) | {number}
                changed |= new != dominators[number]
                dominators[number] = new
        return dominators

    def _reverse_postorder(self) -> list[int]:
        order, seen, stack = [], {self.entry}, [(self.entry, iter(self.blocks[self.entry].successors))]
        while stack:
            number, targets = stack[-1]
            target = next((target for target in targets if target not in seen), None)
            if target is None:
                order.append(stack.pop()[0])
            else:
                seen.add(target)
                stack.append((target, iter(self.blocks[target].successors)))
        return order[::-1]

    def _body(self, head: int, tails: list[int]) -> set[int]:
        before: dict[int, list[int]] = {number: [] for number in self.blocks}
        for number, block in self.blocks.items():
            for target in block.successors:
                before[target].append(number)
        body, waiting = {head}, list(tails)
        while waiting:
            number = waiting.pop()
            if number not in body:
                body.add(number)
                waiting += before[number]
        return body

    def _passes(self, loop: Loop) -> int | None:
        """How often a loop runs whose counter starts at about 0 and is compared with a constant; else None."""
        if len(loop.latches) != 1:
            return None
        latch = self.blocks[loop.latches[0]].instructions
        predicate = latch[-1].predicate.lstrip("@!")
        tests = [i for i in latch if predicate and re.match(rf"{predicate}, ", i.operands)]
        test = re.fullmatch(r"\w+, U?PT, (U?R\d+), (0x\w+), U?PT", tests[-1].operands) if tests else None
        if test is None or not re.match(r"U?ISETP\.(GE|LT|NE|GT|LE)\b", tests[-1].opcode) or ".EX" in tests[-1].opcode:
            return None
        register, limit = test[1], int(test[2], 16)
        steps = []
        for number in loop.blocks:
            for instruction in self.blocks[number].instructions:
                if re.match(rf"{register}(, |$)", instruction.operands):
                    added = re.fullmatch(rf"{register}, {register}(?:\.reuse)?, (0x\w+)(, U?RZ)?", instruction.operands)
                    steps.append(int(added[1], 16) if added and instruction.name in _ADDS else 0)
        return -(-limit // steps[0]) if len(steps) == 1 and 0 < steps[0] < limit else None


_ADDS = {"IADD3", "UIADD3", "VIADD"}
