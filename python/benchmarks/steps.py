"""CPU benchmark of short calls: `python python/benchmarks/steps.py [--frames 8] [--threads N]`.

Without --frames, a cell that is called in a loop, one frame a call with the state carried on, as decoders and most
public ConvLSTMs do; with it, calls of so many frames. Over channels, sides, kernel sizes and batches, forward and
forward with backward through all inputs: about 20 minutes each.

Checks every implementation against float64, then times all of them interleaved, and prints the ratios to the best
peer (medians over the rounds) and, at the end, the least and the median of each kernel size. The peers are eager, with
one convolution of cat(x, h) a step, as it is and in channels_last.
"""

import argparse
import itertools
import json
import os
import statistics

import torch

import pdb_ext
from measure import check, interleave, machine, ratio, summary
from peers import naive_step

KERNELS, CHANNELS, SIDES, BATCHES = (1, 3, 5, 7), (16, 32, 64, 128, 256, 512), (8, 16, 32, 64, 120), (1, 4)
LOOP = 4  # calls that are timed together if each has one frame
OURS, EAGER, CHANNELS_LAST = "pdb_ext", "naive eager", "naive channels_last"


class Calls:
    """One layer of C channels in and out with weights in the form of each implementation, and a clip to run it on."""

    def __init__(self, kernel_size, channels, side, batch, frames, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape, scale):
            return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()

        self.frames = frames
        self.x = normal(LOOP if frames == 1 else frames, batch, channels, side, side, scale=1)
        self.h, self.c = (normal(batch, channels, side, side, scale=0.3) for _ in range(2))
        self.bias = normal(4 * channels, scale=0.1)
        scale = (2 * channels) ** -0.5 / kernel_size
        joint = normal(4 * channels, 2 * channels, kernel_size, kernel_size, scale=scale).detach()
        self.weights = {
            OURS: tuple(half.contiguous().requires_grad_() for half in joint.chunk(2, dim=1)),
            EAGER: (joint.clone().requires_grad_(),),
            CHANNELS_LAST: (joint.contiguous(memory_format=torch.channels_last).requires_grad_(),),
        }

    def inference(self, name):
        with torch.no_grad():
            return [self._run(name)[-1]]

    def training(self, name):
        outputs, weights = self._run(name), self.weights[name]
        leaves = (self.x, self.h, self.c, self.bias, *weights)
        grads = torch.autograd.grad(outputs, leaves, [output.detach() for output in outputs])
        return [outputs[-1][-1:], *grads[:4], torch.cat(grads[4:], dim=1)]

    def _run(self, name):
        """The outputs, (frames, N, C, H, W) of each call."""
        state, outputs = (self.h, self.c), []
        for frames in self.x.split(self.frames):
            if name == OURS:
                output, state = pdb_ext.convlstm(frames, *self.weights[OURS], self.bias, state=state)
            else:
                output, state = self._peer(name, frames, state)
            outputs.append(output)
        return outputs

    def _peer(self, name, frames, state):
        outputs = []
        for x in frames:
            if name == CHANNELS_LAST:
                x = x.contiguous(memory_format=torch.channels_last)
            state = naive_step(x, *self.weights[name], self.bias, *state)
            outputs.append(state[0])
        return (outputs[0][None] if len(outputs) == 1 else torch.stack(outputs)), state


def measure(sizes, frames, training, seconds, samples):
    calls, exact = Calls(*sizes, frames), Calls(*sizes, frames, dtype=torch.float64)
    run = Calls.training if training else Calls.inference
    contestants = {name: lambda name=name: run(calls, name) for name in calls.weights}
    check(contestants, run(exact, EAGER))
    times = interleave(contestants, seconds, samples)
    over = {name: ratio(times, name, OURS) for name in times if name != OURS}
    best_peer = min(over, key=over.get)
    return {"ratio": over[best_peer], "best_peer": best_peer, "times": summary(times)}


def sizes_of(arguments):
    """(k, C, side, N) of the grid whose step has at most --most-gflop billion operations."""
    for k, C, side, N in itertools.product(arguments.kernels, CHANNELS, SIDES, BATCHES):
        if 2 * 4 * C * 2 * C * k**2 * N * side**2 <= arguments.most_gflop * 1e9:
            yield k, C, side, N


def show(k, rows):
    """The summary of the rows of a kernel size."""
    text = f"{k}x{k}, {len(rows)} sizes"
    for which in ("forward", "training"):
        ratios = [row[which]["ratio"] for row in rows]
        below = sum(value < 1 for value in ratios)
        text += f"; {which} least {min(ratios):.2f}, median {statistics.median(ratios):.2f}, {below} below 1"
    print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads, and processors to run on"
    )
    parser.add_argument("--frames", type=int, default=1, help="frames a call (default 1)")
    parser.add_argument("--kernels", type=int, nargs="+", default=KERNELS, help="kernel sizes")
    parser.add_argument("--most-gflop", type=float, default=5, help="leave out sizes with more operations a step")
    parser.add_argument("--seconds", type=float, default=1, help="timing budget for a row, after at least 5 rounds")
    parser.add_argument("--samples", type=int, default=50, help="most rounds for a row")
    parser.add_argument("--json", help="write all numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    info = machine() | {"threads": arguments.threads, "frames": arguments.frames}
    print(", ".join(f"{key}: {value}" for key, value in info.items()))
    rows = []
    for sizes in sizes_of(arguments):
        row = {"sizes": dict(zip(("kernel", "channels", "side", "batch"), sizes))}
        for which in ("forward", "training"):
            row[which] = measure(sizes, arguments.frames, which == "training", arguments.seconds, arguments.samples)
        rows.append(row)
        cells = (
            f"{which} {row[which]['times'][OURS]['median_ms']:9.3f} ms {row[which]['ratio']:5.2f}x"
            for which in ("forward", "training")
        )
        print("k={} C={:3} {:3}x{:<3} N={} ".format(*sizes[:3], *sizes[2:]), *cells, sep="  ", flush=True)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump({"machine": info, "rows": rows}, file, indent=1)
    for k in arguments.kernels:
        show(k, [row for row in rows if row["sizes"]["kernel"] == k])


if __name__ == "__main__":
    main()
