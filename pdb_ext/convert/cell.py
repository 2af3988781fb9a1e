"""Recognises one step of a ConvLSTM by its structure and by what it computes, whatever its names are."""

import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from pdb_ext import reference

from .experiment import Experiment, NotALayer, Shape, peephole_candidates
from .gates import Recipe, Rows, is_plain, op_peephole
from .kept import has_hooks
from .probe import close, probing, state_of
from .template import NoTemplate, build, leaves


@dataclasses.dataclass(frozen=True)
class Convention:
    """How a cell is called and what it returns.

    arguments: names of the parameters of forward that are given; roles: of each, "x", "h", "c", or "hc" and "ch" for a
    pair. template: what is returned, with "h" and "c" in the places of the tensors.
    """

    arguments: tuple[str, ...]
    roles: tuple[str, ...]
    template: Any

    def unpack(self, args: tuple, kwargs: dict) -> tuple[Any, Any, Any] | None:
        """x, h and c of a call; None if it is another kind of call than the one that was recognised."""
        if len(args) > len(self.arguments):
            return None
        given = dict(zip(self.arguments, args))
        for name, value in kwargs.items():
            if name in given or name not in self.arguments:
                return None
            given[name] = value
        found = {}
        for name, role in zip(self.arguments, self.roles):
            value = given.get(name)
            if len(role) == 1:
                found[role] = value
            elif isinstance(value, (tuple, list)) and len(value) == 2:
                found |= dict(zip(role, value))
            else:
                return None
        return found["x"], found["h"], found["c"]


def shape_of(module: nn.Module) -> Shape | None:
    """One convolution of (x, h), four of them, one of x and one of h, or four of each; None for any other module.

    There may be other convolutions, with other numbers of outputs, if the forward does not use them.
    """
    found = {path: part for path, part in module.named_modules() if isinstance(part, nn.Conv2d) and path}
    by_outputs: dict[int, dict[str, nn.Conv2d]] = {}
    for path, convolution in found.items():
        by_outputs.setdefault(convolution.out_channels, {})[path] = convolution
    groups = sorted(by_outputs.values(), key=lambda group: -next(iter(group.values())).out_channels)
    return next((shape for group in groups if (shape := _shape_of(group)) is not None), None)


def _shape_of(found: dict[str, nn.Conv2d]) -> Shape | None:
    sizes = [(convolution.in_channels, convolution.out_channels) for convolution in found.values()]
    if len(sizes) in (1, 4) and len(set(sizes)) == 1:
        (inputs, outputs), rows = sizes[0], 4 // len(sizes)
        C = outputs // rows
        return Shape(found, inputs - C, C, True) if outputs % rows == 0 and inputs > C > 0 else None
    if len(sizes) not in (2, 8):
        return None
    outputs, half, rows = sizes[0][1], len(sizes) // 2, 8 // len(sizes)
    C, counts = outputs // rows, [inputs for inputs, _ in sizes]
    others = [inputs for inputs in counts if inputs != C]
    if outputs % rows or len(set(others)) > 1 or len(others) not in (0, half):
        return None
    return Shape(found, others[0] if others else C, C, False)


def check_structure(module: nn.Module, shape: Shape) -> None:
    """Raises NotALayer if there is anything that a fused cell would not do."""
    if any(has_hooks(part) for part in module.modules() if part is not module):
        raise NotALayer("a module inside it has hooks")
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]  # those not used included
    known = {id(p) for convolution in convolutions for p in convolution.parameters(recurse=False)}
    known |= {id(weight) for weight in peephole_candidates(module, shape).values()}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if id(tensor) not in known:
            raise NotALayer(f"it has the unknown parameter or buffer {name}")
    first = next(iter(shape.convolutions.values()))
    for path, convolution in shape.convolutions.items():
        if not is_plain(convolution):
            raise NotALayer(f"its convolution {path} is no plain torch.nn.Conv2d")
        if convolution.stride != (1, 1) or convolution.groups != 1 or convolution.padding_mode != "zeros":
            raise NotALayer(f"its convolution {path} has a stride, groups or a padding mode")
        if (convolution.kernel_size, convolution.dilation) != (first.kernel_size, first.dilation):
            raise NotALayer("its convolutions have different kernels")
        (k, k_x), (dilation, dilation_x) = convolution.kernel_size, convolution.dilation
        if k != k_x or k % 2 == 0 or dilation != dilation_x:
            raise NotALayer(f"the kernel of its convolution {path}, {(k, k_x)}, is not square and odd")
        if convolution.padding not in ("same", (dilation * (k // 2),) * 2):
            raise NotALayer(f'its convolution {path} has no "same" padding')


def recognise(module: nn.Module, shape: Shape) -> tuple[Recipe, Convention]:
    """Raises NotALayer. The result is only a guess until `agree` has compared it with the module."""
    check_structure(module, shape)
    failure = NotALayer("it could not be called like a ConvLSTM cell")
    with probing(module) as generator:
        experiment = Experiment(module, shape, generator)
        before = state_of(module)
        for names, roles, arguments in experiment.calls():
            try:
                result, seen = experiment.observe(arguments)
            except Exception as error:  # other people's code may raise anything
                failure = NotALayer(f"it could not be called like a ConvLSTM cell ({error})")
                continue
            if state_of(module) != before:
                raise NotALayer("its forward changes its attributes")
            return _interpret(experiment, names, roles, result, seen)
    raise failure


def _interpret(experiment: Experiment, names, roles, result, seen) -> tuple[Recipe, Convention]:
    shape, x, a, b = experiment.shape, experiment.x, experiment.a, experiment.b
    if sorted(path for path, _, _ in seen) != sorted(shape.convolutions):
        raise NotALayer("it does not use each of its convolutions once")
    hidden = {"a": a, "b": b}
    known = {"x": x} | hidden
    if shape.joint:
        known = {}
        for name, h in hidden.items():
            known |= {f"x{name}": torch.cat([x, h], 1), f"{name}x": torch.cat([h, x], 1)}
    reads = {}
    for path, value, _ in seen:
        same = [name for name, tensor in known.items() if value.shape == tensor.shape and torch.equal(value, tensor)]
        if not same:
            raise NotALayer(f"its convolution {path} reads something else than x and h")
        reads[path] = same[0]
    names_of_h = {name.strip("x") for name in reads.values()} - {""}
    orders = {name.replace("a", "h").replace("b", "h") for name in reads.values()}
    if len(names_of_h) != 1 or (shape.joint and len(orders) != 1):
        raise NotALayer("its convolutions do not all read x and the same h")
    h_name = names_of_h.pop()
    h, c = (a, b) if h_name == "a" else (b, a)
    roles = tuple(role.replace("a", "h").replace("b", "c") if h_name == "a" else
                  role.replace("a", "c").replace("b", "h") for role in roles)  # fmt: skip
    outputs = {path: output for path, _, output in seen}
    recipe = _gate_order(experiment, reads, orders.pop() if shape.joint else "", outputs, c, result)
    new_h, new_c = step(_sums(recipe, outputs), c, _peephole(experiment, recipe), recipe)
    try:
        template = build(result, lambda leaf: "h" if close(leaf, new_h) else "c", lambda v: isinstance(v, Tensor))
    except NoTemplate as error:
        raise NotALayer(str(error)) from None
    return recipe, Convention(names, roles, template)


def _peephole(experiment: Experiment, recipe: Recipe) -> list[Tensor]:
    return [experiment.peephole[name] for name in recipe.peephole]


def _sums(recipe: Recipe, outputs: dict[str, Tensor]) -> list[Tensor]:
    """The pre-activations of i, f, o, g without peepholes."""
    C = recipe.channels

    def part(rows: Rows) -> Tensor:
        return outputs[rows.convolution][:, rows.number * C : (rows.number + 1) * C]

    if recipe.order:
        return [part(rows) for rows in recipe.x]
    return [part(one) + part(other) for one, other in zip(recipe.x, recipe.h)]


def step(sums: list[Tensor], c: Tensor, peephole: list[Tensor], recipe: Recipe) -> tuple[Tensor, Tensor]:
    """h and c after a step, from the sums of its convolutions."""
    i, f, o, g = sums
    peepholes = op_peephole(peephole) if peephole else c.new_zeros(3)
    return reference.cell(torch.cat([i, f + recipe.forget_bias, o, g], dim=1), c, peepholes, recipe.output_peephole)


def _gate_order(experiment: Experiment, reads, order: str, outputs, c: Tensor, result) -> Recipe:
    """The first of all orders of the gates, peepholes and constants whose step gives what the module returned."""
    shape, returned = experiment.shape, list(leaves(result))
    if not returned:
        raise NotALayer("it returns no tensors")
    rows = next(iter(shape.convolutions.values())).out_channels // shape.channels
    parts = [Rows(path, number) for path in shape.convolutions for number in range(rows)]
    of_x = [part for part in parts if order or reads[part.convolution] == "x"]
    of_h = of_x if order else [part for part in parts if reads[part.convolution] != "x"]
    if len(of_x) != 4 or len(of_h) != 4:
        raise NotALayer("its convolutions of x and of h are not four gates each")
    pairings = [of_h] if order or rows == 4 else [list(p) for p in itertools.permutations(of_h)]
    dilation = next(iter(shape.convolutions.values())).dilation[0]
    constants = [0.0, *_constants(experiment.module)]
    for pairing, gates, constant in itertools.product(pairings, itertools.permutations(range(4)), constants):
        base = Recipe(shape.in_channels, shape.channels, dilation, tuple(of_x[k] for k in gates),
                      tuple(pairing[k] for k in gates), order, forget_bias=constant)  # fmt: skip
        sums = _sums(base, outputs)
        for names, which in _peepholes(list(experiment.peephole)):
            recipe = dataclasses.replace(base, peephole=names, output_peephole=which)
            new = step(sums, c, _peephole(experiment, recipe), recipe)
            if all(any(close(leaf, value) for value in new) for leaf in returned):
                return recipe
    raise NotALayer("its output differs from that of a ConvLSTM")


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
