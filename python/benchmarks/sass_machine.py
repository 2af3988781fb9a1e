"""What sass_model.py assumes of an H100, in cycles. None of it was measured for this project: these are assumptions.

Instructions of fixed latency (arithmetic, including HMMA and DFMA) are not in these tables: the compiler spaces them by
its own stall counts, which are read from the code. The others hold a scoreboard until their result is available.
"""

import re

from sass_parse import Instruction

L2_HIT = 300  # published measurements: 260 to 280 without traffic

# From issue to the result. The first pattern that matches decides.
LATENCY = [
    (r"LDGDEPBAR", 0),  # its copies count, see sass_model.py
    (r"(LDG|LD|ATOMG|ATOM|LDGSTS|UBLKCP|UTMALDG)\b", L2_HIT),
    (r"LDL\b", 40),  # a spilled register, from L1
    (r"(LDS|LDSM)\b.*\.(128|M88\.4|MT88\.4)", 36),  # four wavefronts
    (r"(LDS|LDSM|ATOMS)\b", 30),
    (r"MUFU\b", 22),
    (r"(I2F|F2I|F2F|FRND|POPC|FLO|BREV)\b", 20),
    (r"SHFL\b", 24),
    (r"LDC", 30),
    (r"(S2R|S2UR|CS2R)\b", 25),
]
OTHER_LATENCY = 25
OPERANDS_READ = 15  # from issue until a store's or load's operands may be overwritten

# How long an instruction keeps the warp itself.
BLOCKS = [
    (r"MEMBAR.*\.(GPU|SYS)", 700),  # the review's figure
    (r"BAR\.(SYNC|RED)", 20),  # all warps arrive at once
]
JUMP = 10  # a taken branch, until its target's first instruction issues, beyond the stall count

# Cycles that a warp's instruction keeps its pipe of one of the four schedulers.
PIPES = [
    ("tensor", r"HMMA\.1688\.F32\.TF32|HMMA\.16816|IMMA", 6.4),  # mma.sync reaches about 62 % of the peak of wgmma
    ("tensor", r"HMMA", 3.2),
    ("special", r"MUFU|I2F|F2I|F2F|FRND|POPC|FLO|BREV", 8),  # 16 a multiprocessor and cycle
    ("double", r"D(FMA|ADD|MUL|SETP)", 2),
    ("multiply", r"IMAD|HFMA2|HMUL2|HADD2", 2),
    ("integer", r"IADD3|VIADD|LEA|LOP3|SHF|SEL|ISETP|FSETP|PRMT|IABS|VIMNMX|FMNMX|F2FP|PLOP3|FSEL|MOV", 2),
]


def _first(table: list[tuple[str, float]], opcode: str, default: float) -> float:
    return next((value for pattern, value in table if re.match(pattern, opcode)), default)


class Timing:
    """The numbers of one opcode."""

    def __init__(self, opcode: str):
        self.latency = _first(LATENCY, opcode, OTHER_LATENCY)
        self.blocks = _first(BLOCKS, opcode, 0)
        self.pipe, self.interval = next(
            ((pipe, interval) for pipe, pattern, interval in PIPES if re.match(pattern, opcode)), (None, 1)
        )
        self.from_memory = re.match(r"(LDG|LD|ATOMG|ATOM)\b", opcode) is not None
        self.copies = re.match(r"(LDGSTS|UBLKCP|UTMALDG)\b", opcode) is not None


_timings: dict[str, Timing] = {}


def timing(instruction: Instruction) -> Timing:
    if instruction.opcode not in _timings:
        _timings[instruction.opcode] = Timing(instruction.opcode)
    return _timings[instruction.opcode]


def is_memory(instruction: Instruction) -> bool:
    return re.match(r"(LD|ST|ATOM|RED)", instruction.opcode) is not None and instruction.name not in (
        "LDC",
        "LDGDEPBAR",
    )


# What is counted, in the order in which it is shown.
CLASSES = [
    ("HMMA", r"HMMA|IMMA|HGMMA"),
    ("DFMA", r"D(FMA|ADD|MUL)"),
    ("FFMA", r"FFMA|FADD|FMUL"),
    ("MUFU", r"MUFU"),
    ("LDG", r"(LDG|LD)\b"),
    ("STG", r"(STG|ST)\b"),
    ("LDS", r"LDS\b"),
    ("LDSM", r"LDSM"),
    ("STS", r"STS\b"),
    ("LDGSTS", r"LDGSTS"),
    ("bulk copies", r"UBLKCP|UTMALDG"),
    ("ATOM", r"ATOM|RED"),
    ("LDL/STL", r"(LDL|STL)\b"),
    ("SHFL", r"SHFL"),
    ("BAR", r"BAR\b"),
    ("MEMBAR", r"MEMBAR"),
    ("DIV64", r"I2F\.U64\.RP"),
    ("DIV32", r"I2F(\.U32)?\.RP"),
    ("CALL", r"CALL"),
    ("64-bit", r"U?IMAD\.WIDE|.*\.(X|EX|U64|S64)\b|.*\.(HI\.X|X\.)"),
]
_WITH_WIDTH = ("LDG", "STG", "LDS", "STS")


def class_of(instruction: Instruction) -> str | None:
    """The class of an instruction, "LDG.128" with its width, or None. DIV: an integer division, written out."""
    if instruction.predicate == "@!PT":  # never executed
        return None
    for name, pattern in CLASSES:
        if re.match(pattern, instruction.opcode):
            width = re.search(r"\.(128|64)\b", instruction.opcode) if name in _WITH_WIDTH else None
            return name + (width[0] if width else "")
    return None
