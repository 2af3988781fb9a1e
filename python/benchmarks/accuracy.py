"""Float32 error after many steps, beside PyTorch's own: `python python/benchmarks/accuracy.py [--draws N] [--steps T]`.

For every draw of inputs: the RMS error of the output and of every gradient against float64, divided by that of the
reference (plain PyTorch) in float32. Peepholes of unit scale amplify a rounding error through 80 steps so much that the
quotient of any two implementations scatters. The second line of each problem shows how much of that is luck: there the
reference itself runs with its channels in another order, the same mathematics with the same operators, rounded
differently.
"""

import argparse
import statistics
from collections import defaultdict

import torch

import pdb_ext
from measure import relative_error
from pdb_ext import reference

PROBLEMS = [  # (input channels, channels, side, shape of the peepholes)
    (32, 32, 16, None),
    (16, 16, 8, "full"),
    (8, 16, 8, "full"),
    (3, 16, 16, "channel"),
]


def draw(steps, in_channels, channels, side, peephole, seed):
    """x, weights, bias and peepholes of unit scale, float32: gates neither saturate nor stay linear."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(shape, generator=generator) * scale

    gates = 4 * channels
    size = side if peephole == "full" else 1
    return [
        normal(steps, 1, in_channels, side, side),
        normal(gates, in_channels, 3, 3, scale=(9 * in_channels) ** -0.5),
        normal(gates, channels, 3, 3, scale=(9 * channels) ** -0.5),
        normal(gates),
        normal(3, channels, size, size) if peephole else None,
    ]


def in_another_order(x, weight_x, weight_h, bias, peephole):
    """The reference with all channels reversed, and its output put back into order."""

    def gates(values):
        return values.unflatten(0, (4, -1)).flip(1).flatten(0, 1)

    peephole = None if peephole is None else peephole.flip(1)
    output, _ = reference.convlstm(x.flip(2), gates(weight_x).flip(1), gates(weight_h).flip(1), gates(bias), peephole)
    return (output.flip(2),)


def results(function, inputs):
    """The output, and the gradients of half its squares' sum."""
    leaves = [None if value is None else value.clone().requires_grad_() for value in inputs]
    output = function(*leaves)[0]
    gradients = torch.autograd.grad(output, [leaf for leaf in leaves if leaf is not None], output.detach())
    return [output.detach(), *gradients]


def quotients(problem, steps, draws):
    """Errors divided by the reference's, of outputs and of gradients: {(implementation, kind): list}."""
    found = defaultdict(list)
    for seed in range(draws):
        inputs = draw(steps, *problem, seed)
        exact = results(reference.convlstm, [None if value is None else value.double() for value in inputs])
        theirs = [relative_error(*pair) for pair in zip(results(reference.convlstm, inputs), exact)]
        for name, function in (("pdb_ext", pdb_ext.convlstm), ("reference, another order", in_another_order)):
            errors = [relative_error(*pair) for pair in zip(results(function, inputs), exact)]
            for index, (error, their) in enumerate(zip(errors, theirs)):
                found[name, "gradients" if index else "output"].append(error / their)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    for problem in PROBLEMS:
        in_channels, channels, side, peephole = problem
        print(
            f"T={arguments.steps}, {in_channels} to {channels} channels, {side}x{side}, peepholes: {peephole or 'none'}"
        )
        for (name, kind), values in quotients(problem, arguments.steps, arguments.draws).items():
            high = statistics.quantiles(values, n=20)[-1]
            share = sum(value > 4 for value in values) / len(values)
            median = statistics.median(values)
            print(f"  {name:26}{kind:10} median {median:.2f}   95 % below {high:.2f}   above 4: {share:.1%}")


if __name__ == "__main__":
    main()
