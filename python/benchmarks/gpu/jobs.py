"""The jobs of gpu_check.py's workers, the most instructive per second first. Needs no pdb_ext, which may be unbuilt."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    T: int
    N: int
    channels: int
    side: int
    dilations: tuple[int, ...] = (1, 2)
    pyramid: bool = True  # both directions and Eq. 5

    @property
    def depth(self) -> int:
        """Steps of the forward pass that wait for each other; the branches of a pyramid do not."""
        return self.T * (2 if self.pyramid else 1)


# The most important first.
ROWS = [
    Row("PDB module of the paper", 5, 1, 32, 60),
    Row("nowcasting", 10, 8, 64, 64, (1,), False),
    Row("PDB module, T=20", 20, 1, 32, 60),
    Row("nowcasting, C=128", 10, 8, 128, 64, (1,), False),
    Row("PDB module, T=80", 80, 1, 32, 60),
    *(Row(f"PDB module, N={N}, {side}x{side}", 5, N, 32, side)
      for N in (1, 4, 16) for side in (60, 30, 120) if (N, side) != (1, 60)),
]  # fmt: skip
TINY = Row("tiny PDB module", 2, 1, 3, 6)  # for a dry run on the CPU

# Paths, each with the layers in one call of its op: the paper's layer alone, and its module, all in one launch.
PATHS = {"step": 1, "persistent": 1, "aten": 1, "pyramid": 4}
PASSES = ("forward", "forward and backward")
PROFILED = [f"{precision} | {name}" for precision in ("bfloat16", "tf32") for name in PASSES]
# Seconds of silence after which a process counts as hanging: it reports each contestant before it starts.
SILENCE = {"eager": 30, "cudnn.benchmark": 30, "torch.compile": 75, "max-autotune": 110, "jax": 45, "memory": 20}
GROUPS = tuple(SILENCE)


@dataclasses.dataclass(frozen=True)
class Job:
    row: Row
    group: str
    precision: str
    training: bool

    @property
    def pass_name(self) -> str:
        return "forward and backward" if self.training else "forward"

    @property
    def key(self) -> str:
        return f"{self.row.name} | {self.precision} | {self.pass_name} | {self.group}"

    @property
    def silence_s(self) -> float:
        """Seconds without news after which its process counts as hanging. Eager, 80 steps take a second or two."""
        return SILENCE[self.group] * (3 if self.row.T > 20 else 1)

    @property
    def is_headline(self) -> bool:
        return self.row in (ROWS[0], TINY) and self.precision in ("bfloat16", "tf32")

    def describe(self) -> dict:
        result = {"key": self.key, "workload": self.row.name, "group": self.group, "precision": self.precision}
        return result | {"pass": self.pass_name}


def jobs_of(rows, groups, precisions, passes=(False, True)) -> list[Job]:
    return [Job(row, g, p, training) for row in rows for g in groups for p in precisions for training in passes]


def quick_jobs() -> list[Job]:
    """The paper's module. torch.compile takes up to a minute for each of its jobs: its order is that of their worth."""
    paper, fast = ROWS[:1], ("bfloat16", "tf32")
    return [
        *jobs_of(paper, ("eager", "cudnn.benchmark"), fast),
        *jobs_of(paper, ("torch.compile",), ("bfloat16",)),
        *jobs_of(paper, ("max-autotune",), ("bfloat16",), (False,)),
    ]


def full_jobs() -> list[Job]:
    """All others, as many as there is time for; gpu_check.py begins with those that a quick run did not get to."""
    paper, nowcasting, others = ROWS[:1], ROWS[1:2], ROWS[2:]
    long = [row for row in ROWS if row.T == 80]
    return [
        *jobs_of(long, ("memory",), ("float32", "bfloat16"), (True,)),
        *jobs_of(paper, ("jax",), ("bfloat16",)),
        *jobs_of([*nowcasting, *others], ("eager",), ("bfloat16",)),
        *jobs_of(paper, ("max-autotune",), ("bfloat16",), (True,)),
        *jobs_of(paper, ("torch.compile",), ("tf32",)),
        *jobs_of(nowcasting, ("cudnn.benchmark", "jax"), ("bfloat16",)),
        *jobs_of([*nowcasting, *others], ("eager",), ("tf32",)),
        *jobs_of(paper, ("eager",), ("float16", "float32")),
        *jobs_of(paper, ("jax", "max-autotune"), ("tf32",)),
        *jobs_of(nowcasting, ("torch.compile",), ("bfloat16",)),
        *jobs_of([row for row in others if row.T <= 20], ("jax",), ("bfloat16",)),
        *jobs_of([*nowcasting, *others], ("eager",), ("float16", "float32")),
    ]


def dry_jobs(stage: str) -> list[Job]:
    """Every kind of measurement once, on a tiny row."""
    if stage == "quick":
        return [*jobs_of([TINY], ("eager",), ("tf32",)), *jobs_of([TINY], ("cudnn.benchmark",), ("tf32",), (False,))]
    return [*jobs_of([TINY], ("memory",), ("tf32",), (True,)), *jobs_of([TINY], ("max-autotune",), ("tf32",), (False,)),
            *jobs_of([TINY], ("jax",), ("tf32",))]  # fmt: skip


def answers(path: str) -> list[str]:
    return [f"{path} | {precision}" for precision in ("float32", "tf32", "float16", "bfloat16", "float64")]


def jobs(stage: str, device: str) -> list[Job]:
    if device == "cpu":
        return dry_jobs(stage)
    return quick_jobs() if stage == "quick" else full_jobs()


def every_job(device: str) -> dict[str, Job]:
    return {job.key: job for stage in ("quick", "full") for job in jobs(stage, device)}
