"""CPU benchmark of the ConvLSTM layer: `python python/benchmarks/cpu.py [--sweep] [--threads N] [--json FILE]`.

Checks every implementation against float64, then times all of them interleaved, and prints medians with quartiles, the
ratios to naive eager and to the best peer, and beside them the time that a direct convolution's multiplications take at the
rate of a large float32 matrix product, measured in the same run. (Winograd's form needs fewer, and can be below it.)
"""

import argparse
import json
import time

import torch
from measure import check, interleave, machine, ratio, summary
from peers import compiled_peers, eager_peers, naive, ours

from pdb_ext import PDBConvLSTM, build_info

TABLE = [  # (name, T, N, channels, side, dilations, both directions and Eq. 5)
    ("layer, dilation 1", 5, 1, 32, 60, (1,), False),
    ("layer, dilation 2", 5, 1, 32, 60, (2,), False),
    ("PDB module", 5, 1, 32, 60, (1, 2), True),
]
SWEEP = [
    *((f"T={T}", T, 1, 32, 60, (1,), False) for T in (5, 20, 80)),
    *((f"N={N}", 5, N, 32, 60, (1,), False) for N in (4, 16)),
    *((f"side={side}", 5, 1, 32, side, (1,), False) for side in (30, 120)),
    *((f"C={C}", 5, 1, C, 60, (1,), False) for C in (16, 64, 128)),
]


class Workload:
    """One row: inputs, weights of every layer, and the function of one implementation over all of them."""

    def __init__(self, name, T, N, channels, side, dilations, pyramid, dtype=torch.float32):
        self.name, self.dilations, self.pyramid = name, dilations, pyramid
        generator = torch.Generator().manual_seed(0)
        layers = len(dilations) * (2 if pyramid else 1)

        def normal(*shape, scale):
            return torch.nn.Parameter((torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype))

        scale = (18 * channels) ** -0.5
        self.x = normal(T, N, channels, side, side, scale=1)
        self.layers = [
            (*(normal(4 * channels, channels, 3, 3, scale=scale) for _ in range(2)), normal(4 * channels, scale=0.1))
            for _ in range(layers)
        ]
        self.merges = [
            tuple(normal(channels, channels, 3, 3, scale=scale) for _ in range(2)) for _ in dilations if pyramid
        ]
        self.module = self._module(channels, dtype) if pyramid else None
        self.flops = self._flops(T, N, channels, side)

    def _module(self, channels, dtype):
        """pdb_ext's own module, whose parameters are those of the peers; the merge's bias, which they lack, is zero."""
        module = PDBConvLSTM(channels, channels, dilations=self.dilations, batch_first=False, dtype=dtype)
        for index, branch in enumerate(module.branches):
            for layer, weights in zip(branch._layers(), self.layers[2 * index :]):
                layer.weight_x, layer.weight_h, layer.bias = weights
            branch.merge_forward.weight, branch.merge_backward.weight = self.merges[index]
            torch.nn.init.zeros_(branch.merge_forward.bias).requires_grad_(False)
        return module

    def _flops(self, T, N, channels, side):
        """Multiplications and additions of the forward pass; the first step has no h."""
        product = 2 * 9 * channels * 4 * channels * N * side**2
        merge = 2 * T * 2 * 9 * channels**2 * N * side**2
        return len(self.layers) * (2 * T - 1) * product + len(self.merges) * merge

    def leaves(self):
        return [self.x, *(t for group in (*self.layers, *self.merges) for t in group)]

    def forward(self, layer):
        if not self.pyramid:
            return layer(self.x, *self.layers[0], self.dilations[0], False)
        if layer is ours:
            return self.module(self.x)[0]
        return torch.cat([self._branch(layer, index) for index in range(len(self.dilations))], dim=2)

    def _branch(self, layer, index):
        dilation = self.dilations[index]
        h_f = layer(self.x, *self.layers[2 * index], dilation, False)
        h_b = layer(h_f, *self.layers[2 * index + 1], dilation, True)
        frames = (
            torch.nn.functional.conv2d(h.flatten(0, 1), weight, padding=dilation, dilation=dilation)
            for h, weight in zip((h_f, h_b), self.merges[index])
        )
        return torch.tanh(sum(frames)).unflatten(0, h_f.shape[:2])

    def inference(self, layer):
        with torch.no_grad():
            return [self.forward(layer)]

    def training(self, layer):
        output = self.forward(layer)
        return [output, *torch.autograd.grad(output, self.leaves(), output.detach())]


def measure(row, implementations, training, arguments):
    workload, exact = Workload(*row), Workload(*row, dtype=torch.float64)
    step = Workload.training if training else Workload.inference
    contestants = {name: lambda layer=layer: step(workload, layer) for name, layer in implementations.items()}
    check(contestants, step(exact, naive))
    times = interleave(contestants, arguments.seconds, arguments.samples)
    result = summary(times)
    best_peer = min((name for name in times if name != "pdb_ext"), key=lambda name: result[name]["median_ms"])
    return {
        "workload": workload.name + (", forward and backward" if training else ", forward"),
        "times": result,
        "best_peer": best_peer,
        "over_naive": ratio(times, "naive eager", "pdb_ext"),
        "over_best_peer": ratio(times, best_peer, "pdb_ext"),
        "direct_ms": workload.flops * (3 if training else 1) / matmul_rate() * 1e3,
    }


def matmul_rate():
    """Operations per second of a large float32 matrix product, best of 10."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / min(times)


def show(result):
    print(f"\n{result['workload']}   (direct convolution at the rate of a matrix product: {result['direct_ms']:.1f} ms)")
    for name, t in sorted(result["times"].items(), key=lambda item: item[1]["median_ms"]):
        print(f"  {name:32} {t['median_ms']:9.2f} ms   [{t['low_ms']:.2f}, {t['high_ms']:.2f}]")
    print(f"  pdb_ext: {result['over_naive']:.2f}x naive eager, {result['over_best_peer']:.2f}x the best peer ({result['best_peer']})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument("--sweep", action="store_true", help="also vary T, N, side and channels one at a time")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile (saves its compile time)")
    parser.add_argument("--seconds", type=float, default=10, help="timing budget for a row")
    parser.add_argument("--samples", type=int, default=50, help="most rounds for a row")
    parser.add_argument("--json", help="write all numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    implementations = eager_peers() | ({} if arguments.no_compile else compiled_peers()) | {"pdb_ext": ours}
    info = machine() | {"threads": arguments.threads, "pdb_ext": build_info()["implementations"]["cpu"]["float32"]}
    print(", ".join(f"{key}: {value}" for key, value in info.items()))
    results = []
    for row in TABLE + (SWEEP if arguments.sweep else []):
        for training in (False, True):
            results.append(measure(row, implementations, training, arguments))
            show(results[-1])
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": info, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
