"""Recognises one step of a ConvLSTM by its structure and by what it computes, whatever its names are."""

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .experiment import Convolution, Experiment, NotALayer, NotCalled, Shape
from .gates import Recipe
from .probe import close, probing, set_mode, state_of
from .search import Observation, States, find_recipe
from .shape import check_convolutions, check_structure, unknown_tensor
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

    @property
    def x(self) -> tuple[int, str]:
        """Place and name of the argument with x."""
        place = self.roles.index("x")
        return place, self.arguments[place]

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


def recognise(module: nn.Module, shape: Shape, size: tuple[int, int] | None = None) -> tuple[Recipe, Convention]:
    """Raises NotALayer. The result is only a guess until `agree` has compared it with the module.

    size: that of the images, of which otherwise only the peepholes decide.
    """
    check_structure(module, shape)
    failure = NotCalled("it could not be called like a ConvLSTM cell")
    with probing(module) as generator:
        experiment = Experiment(module, shape, generator, size)
        before = state_of(module)
        for names, roles, arguments in experiment.calls():
            try:
                result, ran = experiment.observe(*arguments)
            except Exception as error:  # other people's code may raise anything
                failure = NotCalled(f"it could not be called like a ConvLSTM cell ({error})")
                continue
            if state_of(module) != before:
                raise NotALayer("its forward changes its attributes")
            _observe_other_mode(experiment, arguments)
            return _interpret(experiment, names, roles, result, ran)
    if name := unknown_tensor(module, shape):
        raise NotCalled(f"it has the unknown parameter or buffer {name}")
    raise failure


def _observe_other_mode(experiment: Experiment, arguments: list) -> None:
    """Which tensors are used in evaluation but not in training, or the other way round."""
    modes = [(part, part.training) for part in experiment.module.modules()]
    set_mode(experiment.module, not experiment.module.training)
    with contextlib.suppress(Exception):  # seen when the module is compared with the op
        experiment.observe(*arguments)
    for part, training in modes:
        part.training = training


def _interpret(experiment: Experiment, names, roles, result, ran: list[Convolution]) -> tuple[Recipe, Convention]:
    if sorted(one.weight for one in ran) != sorted(experiment.shape.weights):
        raise NotALayer("it does not use each of its convolutions once")
    check_convolutions(ran)
    returned = list(leaves(result))
    if not returned:
        raise NotALayer("it returns no tensors")
    reads, h_name = _reads(experiment, ran)
    roles = tuple(role.replace(h_name, "h").replace("b" if h_name == "a" else "a", "c") for role in roles)
    c = experiment.b if h_name == "a" else experiment.a
    found: list[Tensor] = []

    def fits(states: States) -> bool:
        found[:] = next(states)
        return all(any(close(leaf, value) for value in found) for leaf in returned)

    recipe = find_recipe(experiment, Observation([{one.weight: one for one in ran}], reads, c, returned), fits)
    try:
        template = build(result, lambda leaf: "h" if close(leaf, found[0]) else "c", lambda v: isinstance(v, Tensor))
    except NoTemplate as error:
        raise NotALayer(str(error)) from None
    return recipe, Convention(names, roles, template)


def _reads(experiment: Experiment, ran: list[Convolution]) -> tuple[dict[str, str], str]:
    """What each convolution reads, and which of the two states, "a" or "b", is h."""
    x, hidden = experiment.x, {"a": experiment.a, "b": experiment.b}
    known = {"x": x} | hidden
    if experiment.shape.joint:
        known = {}
        for name, h in hidden.items():
            known |= {f"x{name}": torch.cat([x, h], 1), f"{name}x": torch.cat([h, x], 1)}
    reads = {}
    for one in ran:
        same = [name for name, value in known.items() if value.shape == one.input.shape and value.equal(one.input)]
        if not same:
            raise NotALayer(f"its convolution {one.weight.removesuffix('.weight')} reads something else than x and h")
        reads[one.weight] = same[0]
    names_of_h = {name.strip("x") for name in reads.values()} - {""}
    reads = {path: name.replace("a", "h").replace("b", "h") for path, name in reads.items()}
    if len(names_of_h) != 1 or (experiment.shape.joint and len(set(reads.values())) != 1):
        raise NotALayer("its convolutions do not all read x and the same h")
    return reads, names_of_h.pop()
