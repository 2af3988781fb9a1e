"""CPU benchmark of the ConvLSTM layer: `python python/benchmarks/cpu.py [--sweep] [--gru] [--threads N]`.

--sweep also varies T, N, channels and side, one at a time and in four corners: about 15 minutes with 2 threads.
--gru also times a ConvGRU layer.

Checks every implementation against float64, then times all of them interleaved, and prints medians with quartiles, the
ratios to naive eager and to the best peer, and beside them the time that a direct convolution's multiplications take at
the rate of a large float32 matrix product, measured in the same run. (Winograd's algorithm needs fewer and
can be faster than that.) In the table the peers include torch.compile and, if it is installed, JAX (`lax.scan`,
unrolled); in the sweep they do not.
"""

import argparse
import functools
import importlib.util
import json
import os

import torch

from cpu_workload import GRUWorkload, Workload
from gru_peers import gru_implementations
from measure import check, interleave, machine, ratio, summary
from pdb_ext import build_info
from peers import compiled_peers, eager_peers, naive, ours

TABLE = [  # (name, T, N, channels, side, dilations, both directions and Eq. 5)
    ("layer, dilation 1", 5, 1, 32, 60, (1,), False),
    ("layer, dilation 2", 5, 1, 32, 60, (2,), False),
    ("PDB module", 5, 1, 32, 60, (1, 2), True),
]
BASE = TABLE[0][1:5]
SWEEP = [  # (T, N, channels, side)
    *((T, 1, 32, 60) for T in (20, 80)),
    *((5, N, 32, 60) for N in (4, 16)),
    *((5, 1, 32, side) for side in (30, 120)),
    *((5, 1, C, 60) for C in (16, 64, 128)),
    *((5, 1, 16, 30), (80, 1, 16, 30), (5, 16, 16, 30), (5, 1, 128, 120)),
]


GRU = [(C, side) for side in (32, 60) for C in (16, 32, 64)]


def measure(row, implementations, training, seconds, samples, jax, kind):
    """One row of TABLE: every implementation's times, and how they compare."""
    torch.compiler.reset()  # else the shapes of all rows count against the compiler's limit, beyond which it gives up
    workload, exact = kind(*row), kind(*row, dtype=torch.float64)
    step = kind.training if training else kind.inference
    contestants = {name: lambda layer=layer: step(workload, layer) for name, layer in implementations.items()}
    answers = dict(contestants)
    if jax:
        import jax_peers

        name = "JAX lax.scan, unrolled"
        contestants[name], to_tensors = jax_peers.contestant(workload, training, "float32", unroll=True)
        answers[name] = lambda: to_tensors(contestants[name]())
    check(answers, step(exact, naive if kind is Workload else implementations["naive eager"]))
    times = interleave(contestants, seconds, samples)
    result = summary(times)
    over = {name: ratio(times, name, "pdb_ext") for name in times if name != "pdb_ext"}
    best_peer = min(over, key=over.get)
    flops = workload.flops * (3 if training else 1)
    return {
        "workload": workload.name + (", forward and backward" if training else ", forward"),
        "sizes": dict(zip(("T", "N", "channels", "side"), row[1:5])),
        "training": training,
        "times": result,
        "best_peer": best_peer,
        "over_naive": over["naive eager"],
        "over_best_peer": over[best_peer],
        "direct_gflops": flops / result["pdb_ext"]["median_ms"] / 1e6,
        "direct_ms": flops / _matmul_rate() * 1e3,
    }


@functools.cache
def _matmul_rate():
    """Operations per second of a large float32 matrix product: best of 50 after a warm-up, once for the whole run."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = interleave({"product": lambda: a @ b}, seconds=60, samples=50)["product"]
    return 2 * 1024**3 / min(times)


def show(result):
    print(
        f"\n{result['workload']}   (direct convolution at the rate of a matrix product: {result['direct_ms']:.1f} ms)"
    )
    for name, t in sorted(result["times"].items(), key=lambda item: item[1]["median_ms"]):
        print(f"  {name:32} {t['median_ms']:9.2f} ms   [{t['low_ms']:.2f}, {t['high_ms']:.2f}]")
    naive, best = f"{result['over_naive']:.2f}x naive eager", f"{result['over_best_peer']:.2f}x the best peer"
    print(f"  pdb_ext: {naive}, {best} ({result['best_peer']})", flush=True)


def show_sweep(results):
    """The rows by size, with pdb_ext's rate in a direct convolution's multiplications: constant if the cost is linear.

    Returns the verdict: the row in which pdb_ext is least faster than the best peer, and by how much.
    """
    print("\nSweep, pdb_ext: median, ratio to the best peer, and work per time relative to the first row")
    print("    T    N    C  side     forward                     forward and backward")
    base = results[:2]
    for forward, training in zip(results[::2], results[1::2]):
        cells = []
        for result, first in zip((forward, training), base):
            milliseconds = result["times"]["pdb_ext"]["median_ms"]
            relative = result["direct_gflops"] / first["direct_gflops"]
            cells.append(f"{milliseconds:9.2f} ms {result['over_best_peer']:5.2f}x {relative:5.2f}")
        print("{T:5} {N:4} {channels:4} {side:5}".format(**forward["sizes"]), *cells, sep="  ")
    least = min(results, key=lambda result: result["over_best_peer"])
    least_ratio = least["over_best_peer"]
    answer = "Never slower than the best peer" if least_ratio >= 1 else "SLOWER THAN THE BEST PEER"
    print(f"{answer}: the least ratio is {least_ratio:.2f}x, {least['workload']} ({least['best_peer']})")
    names = ("never_slower_than_the_best_peer", "least_ratio", "workload", "peer")
    return dict(zip(names, (least_ratio >= 1, least_ratio, least["workload"], least["best_peer"])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads, and processors to run on"
    )
    parser.add_argument("--sweep", action="store_true", help="also vary T, N, channels and side (eager peers)")
    parser.add_argument("--gru", action="store_true", help="also time a ConvGRU layer")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile (saves its compile time)")
    parser.add_argument("--seconds", type=float, default=10, help="timing budget for a row, after at least 5 rounds")
    parser.add_argument("--samples", type=int, default=50, help="most rounds for a row")
    parser.add_argument("--json", help="write all numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if hasattr(os, "sched_setaffinity"):  # JAX takes a thread for every processor that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    implementations = eager_peers() | {"pdb_ext": ours}
    compiled = {} if arguments.no_compile else compiled_peers()
    info = machine() | {"threads": arguments.threads, "pdb_ext": build_info()["implementations"]["cpu"]["float32"]}
    print(", ".join(f"{key}: {value}" for key, value in info.items()))
    budget = (arguments.seconds, arguments.samples)
    jax = importlib.util.find_spec("jax") is not None
    report = {"machine": info, "table": run_rows(TABLE, compiled | implementations, *budget, jax)}
    save(report, arguments.json)
    if arguments.gru:
        rows = [(f"ConvGRU, C={C}, side={side}", 8, 1, C, side, (1,), False) for C, side in GRU]
        report["gru"] = run_rows(rows, gru_implementations(not arguments.no_compile), *budget, kind=GRUWorkload)
        save(report, arguments.json)
    if arguments.sweep:  # compiling anew for every size, unrolled over 80 steps, would take hours
        rows = [(f"T={T}, N={N}, C={C}, side={side}", T, N, C, side, (1,), False) for T, N, C, side in (BASE, *SWEEP)]
        report["sweep"] = run_rows(rows, implementations, arguments.seconds / 2, arguments.samples)
        report["verdict"] = show_sweep(report["sweep"])
        save(report, arguments.json)


def save(report, path):
    if path:
        with open(path, "w") as file:
            json.dump(report, file, indent=1)


def run_rows(rows, implementations, seconds, samples, jax=False, kind=Workload):
    results = []
    for row in rows:
        for training in (False, True):
            results.append(measure(row, implementations, training, seconds, samples, jax, kind))
            show(results[-1])
    return results


if __name__ == "__main__":
    main()
