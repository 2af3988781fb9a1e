"""What a ConvLSTM computes from its convolutions: the order of its gates, its peepholes, its biases."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pdb_ext import reference

from .experiment import Convolution, Experiment, NotALayer
from .gates import Recipe, Rows, bias_of, op_peephole, shortened
from .probe import close, cotangent
from .shape import owner

States = Iterator[tuple[Tensor, Tensor]]  # h and c after each step


@dataclasses.dataclass
class Observation:
    """Steps of a ConvLSTM that ran.

    steps: of each its convolutions, by the paths of their weights. reads: what each of these reads, "x", "h", or the
    order in which it reads both, "xh" or "hx". c: the cell state before the first step. returned: what came out.
    """

    steps: list[dict[str, Convolution]]
    reads: dict[str, str]
    c: Tensor
    returned: list[Tensor]


def find_recipe(experiment: Experiment, seen: Observation, fits: Callable[[States], bool]) -> Recipe:
    """The first of all orders of the gates, peepholes and constants whose states fit. Raises NotALayer."""
    shape, first = experiment.shape, seen.steps[0]
    joint = next(iter(seen.reads.values())) if shape.joint else ""
    parts = [part for path, one in first.items() for part in _rows(path, one.value.shape[1] // shape.channels)]
    of_x = [part for part in parts if seen.reads[part.tensor] != "h"]
    of_h = of_x if joint else [part for part in parts if seen.reads[part.tensor] == "h"]
    if len(of_x) != 4 or len(of_h) != 4:
        raise NotALayer("its convolutions of x and of h are not four gates each")
    extra = _other_biases(experiment, seen, of_x)
    pairings = [of_h] if joint or of_h[0].of == 4 else [list(order) for order in itertools.permutations(of_h)]
    constants = [0.0, *_constants(experiment.module)]
    for pairing, gates, constant in itertools.product(pairings, itertools.permutations(range(4)), constants):
        x, h = tuple(of_x[k] for k in gates), tuple(pairing[k] for k in gates)
        base = Recipe(
            shape.in_channels, shape.channels, next(iter(first.values())).options[2][0],
            tuple((path, tuple(experiment.tensors[path].shape)) for path in shape.weights), x, h, joint,
            _terms(experiment.module, first, x, () if joint else h, extra), forget_bias=constant,
        )  # fmt: skip
        sums = [_sums(base, step, extra, experiment.tensors) for step in seen.steps]
        for names, which in _peepholes(list(experiment.peephole)):
            recipe = dataclasses.replace(base, peephole=names, output_peephole=which)
            peephole = [experiment.peephole[name] for name in names]
            if fits(_states(sums, seen.c, peephole, recipe)):
                return _shortened(recipe, experiment.tensors)
    raise NotALayer("its output differs from that of a ConvLSTM")


def _shortened(recipe: Recipe, tensors: dict[str, Tensor]) -> Recipe:
    def bias(gates):
        short, C = shortened(gates), recipe.channels
        return short if short not in tensors or tensors[short].shape == (4 * C,) else gates

    terms = tuple(map(bias, recipe.bias))
    return dataclasses.replace(recipe, x=shortened(recipe.x), h=shortened(recipe.h), bias=terms)


def _rows(path: str, of: int) -> list[Rows]:
    return [Rows(path, number, of) for number in range(of)]


def _sums(recipe: Recipe, step: dict[str, Convolution], extra: dict[Rows, list[Rows]], tensors) -> list[Tensor]:
    """The pre-activations of i, f, o, g without peepholes."""

    def part(rows: Rows) -> Tensor:
        value = step[rows.tensor].value.chunk(rows.of, dim=1)[rows.number]
        for bias in extra.get(rows, ()):
            value = value + bias_of(tensors[bias.tensor].detach(), bias, recipe.channels)[:, None, None]
        return value

    if recipe.order:
        return [part(rows) for rows in recipe.x]
    return [part(one) + part(other) for one, other in zip(recipe.x, recipe.h)]


def _states(sums: list[list[Tensor]], c: Tensor, peephole: list[Tensor], recipe: Recipe) -> States:
    peepholes = op_peephole(peephole) if peephole else c.new_zeros(3)
    for i, f, o, g in sums:
        gates = torch.cat([i, f + recipe.forget_bias, o, g], dim=1)
        h, c = reference.cell(gates, c, peepholes, recipe.output_peephole)
        yield h, c


def _terms(module: nn.Module, ran: dict[str, Convolution], x, h, extra: dict[Rows, list[Rows]]) -> tuple:
    """The bias of a recipe: those of the convolutions, even if one is None now, and the others."""

    def of(rows: Rows) -> list[Rows]:
        path = ran[rows.tensor].bias
        if isinstance(owner(module, rows.tensor), nn.Conv2d):
            path = rows.tensor.removesuffix("weight") + "bias"
        return [Rows(path, rows.number, rows.of)] if path else []

    gates = [of(part) for part in x]
    for gate, part in zip(gates, h):
        gate += of(part)
    for gate, part in zip(gates, x):
        gate += extra.get(part, [])
    return tuple(itertools.zip_longest(*gates))


def _other_biases(experiment: Experiment, seen: Observation, of_x: list[Rows]) -> dict[Rows, list[Rows]]:
    """Tensors that are added to the gates outside of the convolutions: rows of the convolution of x -> rows of these.

    What is added to a gate has the gradient of the gate's convolution, summed. Raises NotALayer for every other tensor
    that is used and not known.
    """
    ran = [one for step in seen.steps for one in step.values()]
    known = {path for one in ran for path in (one.weight, one.bias)} | set(experiment.peephole)
    unknown = {path: tensor for path, tensor in experiment.used_tensors().items() if path not in known}
    if not unknown:
        return {}
    C, found = experiment.shape.channels, {part: [] for part in of_x}
    outputs = [[step[part.tensor].output for step in seen.steps] for part in of_x]
    returned = [leaf for leaf in seen.returned if leaf.requires_grad]
    wanted = [*itertools.chain(*outputs), *(tensor for tensor in unknown.values() if tensor.requires_grad)]
    grads = torch.autograd.grad(returned, wanted, list(map(cotangent, returned)), allow_unused=True)
    by_id = {id(one): grad for one, grad in zip(wanted, grads)}
    sums = {
        part: sum(by_id[id(output)].chunk(part.of, dim=1)[part.number].sum((0, 2, 3)) for output in steps)
        for part, steps in zip(of_x, outputs)
        if all(by_id[id(output)] is not None for output in steps)
    }
    for path, tensor in unknown.items():
        grad = by_id.get(id(tensor))
        places = None if grad is None else _places(path, grad, sums, C)
        if places is None:
            raise NotALayer(f"it uses the unknown parameter or buffer {path}")
        for part, rows in places.items():
            found[part].append(rows)
    return found


def _places(path: str, grad: Tensor, sums: dict[Rows, Tensor], C: int) -> dict[Rows, Rows] | None:
    """To which rows each part of a tensor with this gradient is added: C values or one, of one gate or of four."""
    for of, size in ((1, C), (4, C), (4, 1)):
        if grad.numel() != of * size:
            continue
        places = {}
        for rows, part in zip(_rows(path, of), grad.reshape(of, size)):
            for candidate, total in sums.items():
                expected = (total if size == C else total.sum().reshape(1)).to(part)
                if candidate not in places and close(expected, part):
                    places[candidate] = rows
                    break
        if len(places) == of:
            return places
    return None


def _peepholes(names: list[str]) -> list[tuple[tuple[str, ...], str]]:
    if not names:
        return [((), "previous")]
    by_letter = {name[-1].lower(): name for name in names}
    likely = [tuple(by_letter[letter] for letter in "ifo")] if set(by_letter) == set("ifo") else []
    orders = [*likely, *(order for order in itertools.permutations(names) if order not in likely)]
    return [(order, which) for order in orders for which in ("current", "previous")]


def _constants(module: nn.Module) -> list[float]:
    """Numbers that may be added to the forget gate."""
    numbers = {float(value) for value in vars(module).values() if type(value) in (int, float) and 0 < abs(value) <= 5}
    return [1.0, *sorted(numbers - {1.0})]
