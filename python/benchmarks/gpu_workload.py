"""What gpu_benchmark.py measures: the rows of its table, and who computes them in which way."""

import dataclasses
from collections.abc import Callable

import torch
from cpu_workload import Workload
from gpu_timing import PRECISIONS, cuda_path, graphed
from peers import eager_peers, naive, ours
from torch import nn


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


class GpuWorkload(Workload):
    """A row on a device, its tensors as parameters, which a module can take over."""

    def __init__(self, row: Row, dtype: torch.dtype, device: str):
        super().__init__(row.name, row.T, row.N, row.channels, row.side, row.dilations, row.pyramid, dtype)

        def moved(tensor):
            return nn.Parameter(tensor.detach().to(device))

        self.x = moved(self.x)
        self.layers = [tuple(map(moved, group)) for group in self.layers]
        self.merges = [tuple(map(moved, group)) for group in self.merges]
        self.module = self._module(row.channels) if row.pyramid else None


def step_of(training: bool) -> Callable:
    return Workload.training if training else Workload.inference


# A contestant is given by what makes it ready: it compiles, or captures, where that may fail it alone.
Contestants = dict[str, Callable[[], Callable]]


def eager_contestants(workload: GpuWorkload, training: bool, device: str) -> Contestants:
    """Ours on every path, and the eager peers, each as they are and in a CUDA graph."""
    step = step_of(training)
    functions = {n: lambda layer=layer: step(workload, layer) for n, layer in (eager_peers() | {"pdb_ext": ours}).items()}
    contestants = {name: lambda f=function: f for name, function in functions.items()}
    for name, function in functions.items():
        contestants[f"{name} in a CUDA graph"] = lambda f=function: graphed(f, device)
    for path in ("step", "persistent", "aten"):
        contestants[f"pdb_ext, path {path}, in a CUDA graph"] = lambda path=path: on_path(path, functions["pdb_ext"], device)
    return contestants


def on_path(path: str, function: Callable, device: str) -> Callable:
    """In a CUDA graph of the kernels of this path; on the CPU, which has no paths, the function itself."""
    with cuda_path(path):
        return graphed(function, device)


def anchors(workload: GpuWorkload, training: bool, device: str) -> Contestants:
    """What every group of contestants is measured with."""
    step = step_of(training)
    functions = {"naive eager": lambda: step(workload, naive), "pdb_ext": lambda: step(workload, ours)}
    contestants = {name: lambda f=function: f for name, function in functions.items()}
    return contestants | {"pdb_ext in a CUDA graph": lambda: graphed(functions["pdb_ext"], device)}


def compiled_contestants(workload: GpuWorkload, training: bool, device: str, backend: str = "inductor") -> Contestants:
    """torch.compile over the whole forward pass, in its two modes; max-autotune replays CUDA graphs of its own."""
    contestants = anchors(workload, training, device)
    for mode in ("default", "max-autotune"):
        options = {"mode": mode} if backend == "inductor" else {}
        forward = torch.compile(lambda: Workload.forward(workload, naive), dynamic=False, backend=backend, **options)

        def run(forward=forward):
            torch.compiler.cudagraph_mark_step_begin()
            if not training:
                with torch.no_grad():
                    return [forward()]
            output = forward()
            return [output, *torch.autograd.grad(output, workload.leaves(), output.detach())]

        contestants[f"torch.compile, {mode}"] = lambda run=run: run
    return contestants


def memory_contestants(workload: GpuWorkload) -> dict[str, Callable]:
    """One training step, for its memory."""
    functions = {name: lambda layer=layer: workload.training(layer) for name, layer in eager_peers().items()}
    options = {"": {}, ", recompute_gates": {"recompute_gates": True}, ", checkpoint_every": {"checkpoint_every": 9}}
    for name, values in options.items():

        def run(values=values):
            layers = [m for m in workload.module.modules() if hasattr(m, "recompute_gates")]
            for layer in layers:
                layer.recompute_gates = values.get("recompute_gates", False)
                layer.checkpoint_every = values.get("checkpoint_every")
            return workload.training(ours)

        functions[f"pdb_ext{name}"] = run
    return functions


def workloads(row: Row, precision: str, device: str) -> tuple[GpuWorkload, list[torch.Tensor]]:
    """The workload, and its outputs and gradients in float64."""
    exact = GpuWorkload(row, torch.float64, device)
    return GpuWorkload(row, PRECISIONS[precision], device), exact.training(naive)
