"""What benchmark.py measures: the rows of jobs.py, and the contestants that compute them."""

import functools
from collections.abc import Callable

import torch
from torch import nn

import pdb_ext
from cpu_workload import Workload
from gpu.jobs import Row
from gpu.timing import PRECISIONS, cuda_path, graphed
from peers import eager_peers, naive, ours


class GpuWorkload(Workload):
    """A row on a device, its tensors as parameters, which a module can take over."""

    def __init__(self, row: Row, dtype: torch.dtype, device: str | torch.device):
        self.row = row
        super().__init__(row.name, row.T, row.N, row.channels, row.side, row.dilations, row.pyramid, dtype)

        def moved(tensor):
            return nn.Parameter(tensor.detach().to(device))

        self.x = moved(self.x)
        self.layers = [tuple(map(moved, group)) for group in self.layers]
        self.merges = [tuple(map(moved, group)) for group in self.merges]
        self.module = self._module(row.channels) if row.pyramid else None


def step_of(training: bool) -> Callable:
    return Workload.training if training else Workload.inference


# A contestant is defined by the function that prepares it: compiling or capturing there can fail only that contestant.
Contestants = dict[str, Callable[[], Callable]]


def eager_contestants(workload: GpuWorkload, training: bool, device: str) -> Contestants:
    """Ours on every path, and the eager peers, each as they are and in a CUDA graph."""
    step = step_of(training)
    layers = eager_peers() | {"pdb_ext": ours}
    functions = {name: lambda layer=layer: step(workload, layer) for name, layer in layers.items()}
    contestants = {name: lambda f=function: f for name, function in functions.items()}
    for name, function in functions.items():
        contestants[f"{name} in a CUDA graph"] = lambda f=function: graphed(f, device)
    for path in ("step", "persistent", "aten"):
        name = f"pdb_ext, path {path}, in a CUDA graph"
        contestants[name] = lambda path=path: on_path(path, functions["pdb_ext"], device)
    return contestants


def on_path(path: str, function: Callable, device: str) -> Callable:
    """In a CUDA graph of the kernels of this path; on the CPU, which has no paths, the function itself."""
    with cuda_path(path):
        return graphed(function, device)


def anchors(workload: GpuWorkload, training: bool, device: str) -> Contestants:
    """Measured with every group of contestants: ratios are taken within a group, whose contestants take turns."""
    step = step_of(training)

    def run():
        return step(workload, ours)

    return {"pdb_ext": lambda: run, "pdb_ext in a CUDA graph": lambda: graphed(run, device)}


def benchmarked_contestants(workload: GpuWorkload, training: bool, device: str) -> Contestants:
    """The eager peers in a process in which cuDNN tries its algorithms and keeps the fastest."""
    step, contestants = step_of(training), {}
    for name, layer in eager_peers().items():
        contestants[f"{name}, cudnn.benchmark"] = lambda layer=layer: lambda: step(workload, layer)
        contestants[f"{name}, cudnn.benchmark, in a CUDA graph"] = lambda layer=layer: graphed(
            lambda: step(workload, layer), device
        )
    return contestants


def compiled_contestants(workload: GpuWorkload, training: bool, mode: str, backend: str = "inductor") -> Contestants:
    """torch.compile over the whole forward pass; max-autotune replays its own CUDA graphs."""
    options = {"mode": mode} if backend == "inductor" else {}

    def ready():
        forward = torch.compile(lambda: Workload.forward(workload, naive), dynamic=False, backend=backend, **options)

        def run():
            torch.compiler.cudagraph_mark_step_begin()
            if not training:
                with torch.no_grad():
                    return [forward()]
            output = forward()
            return [output, *torch.autograd.grad(output, workload.leaves(), output.detach())]

        return run

    return {f"torch.compile, {mode}": ready}


# The settings whose memory is measured, with their arguments recompute_gates and checkpoint_every (None by default).
OPTIONS = [
    ("pdb_ext", None, None),
    ("pdb_ext, recompute_gates=True", True, None),
    ("pdb_ext, recompute_gates=False", False, None),
    ("pdb_ext, checkpoint_every=9", None, 9),
]


def memory_contestants(workload: GpuWorkload) -> dict[str, Callable]:
    """One training step, for its memory."""
    functions = {name: lambda layer=layer: workload.training(layer) for name, layer in eager_peers().items()}
    layers = [module for module in workload.module.modules() if isinstance(module, pdb_ext.ConvLSTM)]
    for name, recompute_gates, checkpoint_every in OPTIONS:

        def run(recompute_gates=recompute_gates, checkpoint_every=checkpoint_every):
            for layer in layers:
                layer.recompute_gates, layer.checkpoint_every = recompute_gates, checkpoint_every
            return workload.training(ours)

        functions[name] = run
    return functions


def doubled(workload: GpuWorkload) -> GpuWorkload:
    """The same rounded numbers, in float64."""
    exact = GpuWorkload(workload.row, torch.float64, workload.x.device)
    for to, value in zip(exact.leaves(), workload.leaves()):
        to.data.copy_(value.data)
    return exact


@functools.lru_cache(maxsize=1)
def with_exact(row: Row, precision: str, device: str) -> tuple[GpuWorkload, list[torch.Tensor]]:
    """The workload, and its outputs and gradients in float64."""
    workload = GpuWorkload(row, PRECISIONS[precision], device)
    return workload, doubled(workload).training(naive)
