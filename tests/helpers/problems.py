"""Inputs for `convlstm` and `convgru`: awkward cases and random ones, and the comparison of two implementations."""

import dataclasses
import random
from typing import ClassVar

import torch

from pdb_ext import reference


@dataclasses.dataclass(frozen=True)
class Problem:
    T: int = 3
    N: int = 2
    in_channels: int = 3
    C: int = 5
    H: int = 7
    W: int = 6
    k: int = 3
    dilation: int = 1
    reverse: bool = False
    bias: bool = True
    peephole: str = ""  # "", "full", "map", "channel", "scalar"
    output_peephole: str = "previous"
    state: bool = False

    gates: ClassVar[int] = 4
    op: ClassVar[str] = "convlstm"

    def __str__(self):
        sizes = f"T{self.T}-N{self.N}-{self.in_channels}to{self.C}-{self.H}x{self.W}-k{self.k}-d{self.dilation}"
        flags = [self.peephole and f"{self.peephole}_{self.output_peephole}", self.reverse and "reverse"]
        flags += [not self.bias and "nobias", self.state and "state"]
        return "-".join([sizes, *(flag for flag in flags if flag)])

    def options(self) -> dict:
        return {"dilation": self.dilation, "reverse": self.reverse, "output_peephole": self.output_peephole}

    def inputs(self, dtype=torch.float64, seed=0) -> dict:
        """x, weights and states of unit scale: gates neither saturate nor stay linear."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape, scale=1.0):
            return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

        C, area = self.C, self.k**2
        shapes = {
            "full": (3, C, self.H, self.W),
            "map": (3, 1, self.H, self.W),
            "channel": (3, C, 1, 1),
            "scalar": (1,),
        }
        return {
            "x": normal(self.T, self.N, self.in_channels, self.H, self.W),
            "weight_x": normal(
                self.gates * C, self.in_channels, self.k, self.k, scale=(self.in_channels * area) ** -0.5
            ),
            "weight_h": normal(self.gates * C, C, self.k, self.k, scale=(C * area) ** -0.5),
            "bias": normal(self.gates * C) if self.bias else None,
            "peephole": normal(*shapes[self.peephole]) if self.peephole else None,
            "h_0": normal(self.N, C, self.H, self.W, scale=0.5) if self.state else None,
            "c_0": normal(self.N, C, self.H, self.W) if self.state else None,
        }

    def call(self, function, inputs: dict) -> dict[str, torch.Tensor]:
        """What the function returns, by name."""
        rest = {k: v for k, v in inputs.items() if k not in ("h_0", "c_0")}
        state = (inputs["h_0"], inputs["c_0"]) if self.state else None
        output, (h_n, c_n) = function(**rest, state=state, **self.options())
        return {"output": output, "h_n": h_n, "c_n": c_n}


class GRUProblem(Problem):
    """For `convgru`, which has no peepholes and no cell state."""

    gates: ClassVar[int] = 3
    op: ClassVar[str] = "convgru"

    def options(self) -> dict:
        return {"dilation": self.dilation, "reverse": self.reverse}

    def inputs(self, dtype=torch.float64, seed=0) -> dict:
        inputs = super().inputs(dtype, seed)
        return {name: inputs[name] for name in ("x", "weight_x", "weight_h", "bias", "h_0")}

    def call(self, function, inputs: dict) -> dict[str, torch.Tensor]:
        output, h_n = function(**inputs, **self.options())
        return {"output": output, "h_n": h_n}


def as_gru(problem: Problem) -> GRUProblem:
    return GRUProblem(**dataclasses.asdict(problem) | {"peephole": "", "output_peephole": "previous"})


FIXED = [
    Problem(),
    Problem(T=1),
    Problem(N=0),
    Problem(H=1, W=1),
    Problem(H=1, W=50, dilation=2),
    Problem(H=50, W=1, dilation=2, peephole="full"),
    Problem(N=1, in_channels=1, C=1),
    Problem(C=9, peephole="full", state=True, reverse=True),
    Problem(C=8, peephole="map", output_peephole="current", state=True),
    Problem(peephole="channel", output_peephole="current", dilation=3, k=5, H=13, W=21),
    Problem(peephole="scalar", bias=False, k=1, dilation=4),
    Problem(dilation=100, state=True),
    Problem(N=0, T=1, peephole="map", state=True),
    # Large enough for the Winograd form of the CPU kernels, with tiles that hang over the edge.
    Problem(T=2, in_channels=33, C=17, H=9, W=11, state=True),
    Problem(T=3, in_channels=16, C=16, H=16, W=11, dilation=2, peephole="full", reverse=True),
    Problem(T=2, N=1, in_channels=19, C=33, H=17, W=18, dilation=3, output_peephole="current", peephole="map"),
    # Small images, whose convolutions the CPU divides by rows of the weight; one step alone.
    Problem(T=2, in_channels=17, C=18, k=5, H=6, W=7, state=True, peephole="full"),
    Problem(T=1, N=3, in_channels=40, C=24, k=7, H=8, W=5, state=True),
    Problem(T=5, N=1, in_channels=1, C=64, H=16, W=16),
    Problem(T=5, N=1, in_channels=3, C=64, H=16, W=16, bias=False),
]


def random_problems(count: int, seed: int) -> list[Problem]:
    rng = random.Random(seed)
    return [
        Problem(
            T=rng.choice([1, 2, 4]), N=rng.choice([1, 2, 3]), in_channels=rng.randint(1, 24), C=rng.randint(1, 28),
            H=rng.randint(1, 14), W=rng.randint(1, 26), k=rng.choice([1, 3, 5]), dilation=rng.choice([1, 2, 3, 7]),
            reverse=rng.random() < 0.5, bias=rng.random() < 0.7, peephole=rng.choice(["", "full", "map", "channel"]),
            output_peephole=rng.choice(["previous", "current"]), state=rng.random() < 0.5,
        )  # fmt: skip
        for _ in range(count)
    ]  # fmt: skip


def run(function, problem: Problem, inputs: dict, weights_seed=1) -> dict[str, torch.Tensor]:
    """Outputs and the gradients of a random linear function of all outputs with respect to all inputs."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items() if value is not None}
    results = problem.call(function, leaves)
    generator = torch.Generator().manual_seed(weights_seed)
    total = sum(
        (value.double() * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum()
        for value in results.values()
    )
    grads = torch.autograd.grad(total, list(leaves.values()))
    results |= {f"grad of {name}": grad for name, grad in zip(leaves, grads)}
    return {name: value.detach() for name, value in results.items()}


def rms(tensor: torch.Tensor) -> float:
    return tensor.double().square().mean().sqrt().item() if tensor.numel() else 0.0


def assert_as_accurate_as_pytorch(function, problem: Problem, dtype: torch.dtype, draws: int = 4) -> None:
    """The rule of this project: the RMS error against float64 is at most twice that of the reference in `dtype`.

    Errors are pooled over several draws of the inputs. Results of fewer than 16 numbers are left out: a ratio of few
    roundings is luck. Two roundings of the values are always allowed (64 in float64, which is held against itself).
    """
    exact, theirs, ours = {}, {}, {}
    reference_function = getattr(reference, problem.op)
    for seed in range(draws):
        inputs = problem.inputs(dtype, seed)
        doubled = {k: None if v is None else v.double() for k, v in inputs.items()}
        for results, run_function, values in (
            (exact, reference_function, doubled), (theirs, reference_function, inputs), (ours, function, inputs),
        ):  # fmt: skip
            for name, value in run(run_function, problem, values).items():
                assert value.dtype == values["x"].dtype, name
                results.setdefault(name, []).append(value.double())
    for name in (name for name in exact if exact[name][0].numel() >= 16):
        value, theirs_error, error = (
            rms(torch.stack(a) - (torch.stack(exact[name]) if subtract else 0))
            for a, subtract in ((exact[name], False), (theirs[name], True), (ours[name], True))
        )
        roundings = (64 if dtype == torch.float64 else 2) * torch.finfo(dtype).eps * value
        allowed = max(2 * theirs_error, roundings)
        assert error <= allowed, f"{name}: RMS error {error:.3g}, allowed {allowed:.3g}"
