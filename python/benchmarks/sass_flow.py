"""The control flow of a kernel: basic blocks, and the loops that they form, one inside another."""

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
        """The label of the subroutine, if the block ends in a call."""
        last = self.instructions[-1]
        return last.label if last.name == "CALL" and not str(last.label).startswith(".L") else None


@dataclass
class Loop:
    """A natural loop. latches: its blocks that jump back to the head. passes: how often it runs, if known."""

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
        if instruction.name in ("BRA", "JMP", "BRX") or instruction.name == "CALL" and labels:  # then it is a jump
            conditional = instruction.predicate or not re.match(r"`\(|R\d", instruction.operands)
            return labels + (following if conditional else [])
        if instruction.name in ("EXIT", "RET"):
            return following if instruction.predicate else []
        if instruction.name == "BSYNC":
            return [self._joint(at)]
        return following

    def _joint(self, at: int) -> int:
        """Where a BSYNC continues: at the label of the BSSY of its register, usually the next instruction."""
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
        """How often a loop runs that counts from about 0, or from a constant, to a constant; else None."""
        if len(loop.latches) != 1:
            return None
        latch = self.blocks[loop.latches[0]].instructions
        test = _test(latch, latch[-1].predicate.lstrip("@!"))
        if test is None:
            return None
        register, limit = test[0], test[1] - self._begin(test[0], loop.head)
        changes = [i for number in loop.blocks for i in self.blocks[number].instructions if _writes(i, register)]
        steps = [_sum(i, register) for i in changes]
        step = steps[0][1] if len(steps) == 1 and steps[0] else 0
        return -(-limit // step) if 0 < step < limit else None

    def _begin(self, register: str, before: int) -> int:
        """The constants in a register's value before an instruction; what else is in it counts as 0."""
        for at in range(before - 1, self._function.start - 1, -1):
            instruction = self._kernel.instructions[at]
            if _writes(instruction, register):
                source, constant = _sum(instruction) or ("", 0)
                return constant + (self._begin(source, at) if source else 0)
        return 0


def _test(block: list[Instruction], predicate: str) -> tuple[str, int] | None:
    """The register and the constant that it is compared with for a predicate, at the end of a block."""
    made = [i for i in block if predicate and _writes(i, predicate)]
    if not made:
        return None
    if copied := re.fullmatch(r"P\d, PT, PT, PT, (UP\d), 0x80, 0x0", made[-1].operands):  # PLOP3
        return _test(block, copied[1])
    test = re.fullmatch(r"\w+, U?PT, (U?R\d+), (0x\w+), U?PT", made[-1].operands)
    if test is None or not re.match(r"U?ISETP\.(GE|LT|NE|GT|LE)\b(?!.*\.EX)", made[-1].opcode):
        return None
    return test[1], _signed(test[2])


def _writes(instruction: Instruction, register: str) -> bool:
    return re.match(rf"{register}(, |$)", instruction.operands) is not None


def _signed(text: str) -> int:
    return (int(text, 16) + 2**31) % 2**32 - 2**31


def _sum(instruction: Instruction, register: str = r"U?R\d+") -> tuple[str, int] | None:
    """The register (or "") and the constant that an instruction adds up, or copies; None if it does something else."""
    operands = instruction.operands.replace(".reuse", "")
    if instruction.name in ("IADD3", "UIADD3", "VIADD"):
        added = re.fullmatch(rf"U?R\d+, ({register}), (0x\w+)(, U?RZ)?", operands)
        return (added[1], _signed(added[2])) if added else None
    if "MOV" in instruction.opcode:
        copied = re.fullmatch(r"U?R\d+, (?:RZ, RZ, )?(?:(U?R\d+)|U?RZ|(0x\w+))", operands)
        return (copied[1] or "", _signed(copied[2] or "0")) if copied else None
    return None
