"""Times a ConvGRU layer on a GPU beside loops of PyTorch's operators: `python python/benchmarks/gpu_gru.py`.

About a minute. Every contestant's output and gradients are checked against float64 before it is timed; then all of a
row take turns (gpu/timing.py). `device` is the time of the GPU alone, `wall` what a user waits, both in milliseconds;
each contestant is timed as it is and in a CUDA graph.
"""

import argparse
import json

import torch
from torch import nn

from cpu_workload import GRUWorkload
from gpu.timing import PRECISIONS, cuda_path, graphed, precision_settings, time_interleaved
from gru_peers import gru_implementations, naive_gru, our_gru
from measure import check, machine

ROWS = {"nowcasting": (10, 8, 64, 64), "the paper's layer": (5, 1, 32, 60)}  # T, N, channels, side
TINY = {"tiny": (2, 1, 3, 6)}
ERROR_LIMIT = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}  # relative RMS; guards the timing only


class Layer(GRUWorkload):
    def __init__(self, name, sizes, dtype, device):
        super().__init__(name, *sizes, (1,), False, dtype)
        self.x = nn.Parameter(self.x.detach().to(device))
        self.layers = [tuple(nn.Parameter(t.detach().to(device)) for t in group) for group in self.layers]

    def doubled(self):
        """The same rounded numbers, in float64."""
        exact = Layer(self.name, (*self.x.shape[:3], self.x.shape[-1]), torch.float64, self.x.device)
        for to, value in zip(exact.leaves(), self.leaves()):
            to.data.copy_(value.data)
        return exact


def contestants(layer: Layer, training: bool, device: str) -> dict:
    """Name -> the function to be timed."""
    step = Layer.training if training else Layer.inference
    functions = {name: lambda f=f: step(layer, f) for name, f in gru_implementations(compiled=False).items()}
    result = functions | {f"{name}, graph": graphed(f, device) for name, f in functions.items()}
    for path in ("step", "aten"):
        with cuda_path(path):
            result[f"pdb_ext, path {path}, graph"] = graphed(lambda: step(layer, our_gru), device)
    return result


def measure(name: str, sizes: tuple, precision: str, training: bool, device: str, seconds: float) -> dict:
    with precision_settings(precision):
        layer = Layer(name, sizes, PRECISIONS[precision], device)
        exact = (Layer.training if training else Layer.inference)(layer.doubled(), naive_gru)
        functions = contestants(layer, training, device)
        check(functions, exact, ERROR_LIMIT[precision])
        times = time_interleaved(functions, device, seconds)
    return {"row": name, "sizes": sizes, "precision": precision, "training": training, "times": times}


def show(result: dict) -> None:
    print(
        f"\n{result['row']} {result['sizes']}, {result['precision']}, {'training' if result['training'] else 'forward'}"
    )
    for name, times in result["times"].items():
        columns = (f"{kind} {times[f'{kind}_ms'][1]:8.3f}" for kind in ("device", "wall") if f"{kind}_ms" in times)
        print(f"  {name:32}", *columns, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cpu: a dry run on a tiny layer")
    parser.add_argument("--seconds", type=float, default=2, help="of timing for a row (default: %(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "tf32"], choices=PRECISIONS)
    parser.add_argument("--json", help="also write all quartiles to this file")
    options = parser.parse_args(arguments)
    results = []
    for name, sizes in (ROWS if options.device == "cuda" else TINY).items():
        for precision in options.precisions:
            for training in (False, True):
                results.append(measure(name, sizes, precision, training, options.device, options.seconds))
                show(results[-1])
    if options.json:
        gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
        with open(options.json, "w") as file:
            json.dump({"machine": machine() | {"gpu": gpu}, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
