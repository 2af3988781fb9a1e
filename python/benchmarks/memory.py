"""Peak memory and time of one training step of a layer on the CPU: `python python/benchmarks/memory.py [--steps T]`.

Each implementation runs in its own process: x (T, 1, 32, 60, 60) float32, forward, and backward to x and all weights.
The table shows the growth of the process's peak resident memory, x and the gradients included, and the median time of
five steps. The processes take turns only once, so that differences in time of less than a tenth mean nothing.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

CHANNELS, SIDE = 32, 60


def step(name: str, T: int) -> tuple[float, float]:
    """Growth of the peak resident memory, in MiB, and time in milliseconds."""
    import torch

    import pdb_ext
    from peers import hoisted, naive

    def checkpointed(x, weight_x, weight_h, bias, dilation, reverse):
        return pdb_ext.convlstm(x, weight_x, weight_h, bias, checkpoint_every=round(T**0.5))[0]

    def recomputing(x, weight_x, weight_h, bias, dilation, reverse):
        return pdb_ext.convlstm(x, weight_x, weight_h, bias, recompute_gates=True)[0]

    def ours(x, weight_x, weight_h, bias, dilation, reverse):
        return pdb_ext.convlstm(x, weight_x, weight_h, bias)[0]

    layers = {"pdb_ext": ours, "pdb_ext, recompute_gates": recomputing, "pdb_ext, checkpoint_every": checkpointed}
    layer = ({"naive eager": naive, "hoisted": hoisted} | layers)[name]
    weights = [torch.randn(4 * CHANNELS, CHANNELS, 3, 3) * 0.04 for _ in range(2)] + [torch.zeros(4 * CHANNELS)]
    weights = [weight.requires_grad_() for weight in weights]

    def train(length: int) -> None:
        x = torch.randn(length, 1, CHANNELS, SIDE, SIDE, requires_grad=True)
        output = layer(x, *weights, 1, False)
        torch.autograd.grad(output, [x, *weights], output.detach())

    train(2)  # What the libraries allocate once.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(T)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        train(T)
        times.append(time.perf_counter() - begin)
    return memory, 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="T (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(*step(arguments.one, arguments.steps))
        return
    baseline = None
    for name in ("naive eager", "hoisted", "pdb_ext", "pdb_ext, recompute_gates", "pdb_ext, checkpoint_every"):
        command = [sys.executable, __file__, "--one", name, "--steps", str(arguments.steps)]
        used, ms = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        baseline = baseline or used
        print(f"T={arguments.steps}  {name:<26} {used:7.0f} MiB  {used / baseline:.2f} of naive eager  {ms:7.0f} ms")


if __name__ == "__main__":
    main()
