"""Recognises a ConvLSTM cell and its loop over time in one module."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .experiment import Convolution, Experiment, N, NotALayer, NotCalled, Shape, parameters_of_forward
from .gates import Recipe
from .kept import keep
from .plan import SequencePlan
from .probe import close, probing, random_tensor
from .search import Observation, States, find_recipe
from .sequence import LENGTHS, Call, differs, names_of, of_its_size, size_that_is_set, taking, verified
from .shape import check_convolutions, check_structure
from .template import leaves

_MOST_STEPS = 64  # that a module may take where nobody says how many


def recognise(module: nn.Module, shape: Shape) -> SequencePlan:
    """Raises NotALayer. The plan has been compared with the module, gradients included."""
    try:
        names = names_of(module)
    except NotALayer as error:
        raise NotCalled(str(error)) from None
    check_structure(module, shape)
    failure = NotCalled("it could not be called with a sequence")
    for kind, length, state in itertools.product(("TN", "NT"), ("", *names[1:]), ("", *names[1:])):
        if length and length == state:
            continue
        try:
            recipe = _recipe(module, shape, kind, length, state)
        except NotCalled as error:
            failure = NotCalled(f"it could not be called with a sequence ({error})")
            continue
        return _plan(module, recipe, kind)
    raise failure


def _plan(module: nn.Module, recipe: Recipe, kind: str) -> SequencePlan:
    """With all arguments of the module that can be understood."""
    plan = SequencePlan((("", recipe),), names_of(module), kind, None, keep(module), pair=True)
    reason = NotALayer("its forward does not take a sequence alone")
    for length in ("", *plan.names[1:]):
        calls = [Call(steps, length=steps if length else None) for steps in LENGTHS]
        try:
            plan = verified(module, dataclasses.replace(plan, length=length), calls)
        except NotALayer as error:
            reason = error
            continue
        break
    else:
        raise reason
    plan = of_its_size(module, plan, calls[0])
    if plan.length:
        plan = dataclasses.replace(plan, steps=_steps(module, plan))
    plan = taking(module, plan, "length", Call(LENGTHS[1], length=LENGTHS[0]))
    said = LENGTHS[0] if plan.length else None
    plan = taking(module, plan, "state", Call(LENGTHS[0], tuple, said))
    without_x = dataclasses.replace(plan, zeros=True)
    can_be_missing = plan.state and (plan.length or plan.steps)
    if can_be_missing and not differs(module, without_x, Call(LENGTHS[0], tuple, said, with_x=False)):
        return without_x
    return plan


def _steps(module: nn.Module, plan: SequencePlan) -> int | None:
    """How many steps the module takes where a call does not say it: by default, or by one of its attributes."""
    defaults = [p.default for p in parameters_of_forward(module) if p.name == plan.length]
    numbers = [value for value in (*defaults, *vars(module).values()) if type(value) is int]
    for steps in (0, *dict.fromkeys(numbers)):
        if 0 <= steps <= _MOST_STEPS:
            candidate = dataclasses.replace(plan, steps=steps)
            if not any(differs(module, candidate, Call(max(steps, LENGTHS[0]) + more)) for more in (0, 1)):
                return steps
    return None


def _recipe(module: nn.Module, shape: Shape, kind: str, length: str, state: str) -> Recipe:
    """Raises NotCalled if it cannot be called so, NotALayer if it computes something else."""
    T = LENGTHS[0]
    with probing(module) as generator:
        experiment = Experiment(module, shape, generator, size_that_is_set(module))
        like, first = experiment.x, (T, N) if kind == "TN" else (N, T)
        x = random_tensor(like, (*first, shape.in_channels, *experiment.size), generator)
        given: dict[str, Any] = {names_of(module)[0]: x} | ({length: T} if length else {})
        given |= {state: (experiment.a, experiment.b)} if state else {}
        try:
            result, ran = experiment.observe(**given)
        except Exception as error:  # other people's code may raise anything
            raise NotCalled(error) from None
        return _interpret(experiment, list(x if kind == "TN" else x.transpose(0, 1)), bool(state), result, ran)


def _interpret(
    experiment: Experiment, frames: list[Tensor], has_state: bool, result: Any, ran: list[Convolution]
) -> Recipe:
    steps = _steps_of(experiment.shape, ran)
    reads, hidden = _reads(experiment.shape, frames, steps)
    a, b = experiment.a, experiment.b
    if has_state and not (hidden[0].equal(a) or hidden[0].equal(b)):
        raise NotCalled("it does not read its states")
    if not has_state and hidden[0].any():
        raise NotCalled("it does not begin with zeros")
    check_convolutions(ran)
    c = torch.zeros_like(a) if not has_state else b if hidden[0].equal(a) else a

    def fits(states: States) -> bool:  # the first states alone are not tried: one of zeros does not tell much
        return all(close(h, expected) for (h, _), expected in zip(states, hidden[1:]))

    return find_recipe(experiment, Observation(steps, reads, c, list(leaves(result))), fits)


def _steps_of(shape: Shape, ran: list[Convolution]) -> list[dict[str, Convolution]]:
    """The convolutions of each step, of which there are at least three."""
    by_path: dict[str, list[Convolution]] = {path: [] for path in shape.weights}
    for one in ran:
        if one.weight not in by_path:
            raise NotALayer("it has a convolution with another weight")
        by_path[one.weight].append(one)
    counts = {len(found) for found in by_path.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise NotCalled("it does not use its convolutions in every step")
    return [dict(zip(by_path, step)) for step in zip(*by_path.values())]


def _reads(
    shape: Shape, frames: list[Tensor], steps: list[dict[str, Convolution]]
) -> tuple[dict[str, str], list[Tensor]]:
    """What each convolution reads, and h before each step."""
    reads, hidden = {}, []
    for frame, step in zip(frames, steps, strict=False):
        found: dict[str, Tensor] = {}
        for path, one in step.items():
            read, h = next(_split(shape, one.input, frame), ("", frame))
            if not read or reads.setdefault(path, read) != read:
                raise NotCalled("its convolutions read something else than x and h")
            if read != "x":
                found[path] = h
        first = next(iter(found.values()), None)
        if first is None or not all(h.equal(first) for h in found.values()):
            raise NotALayer("its convolutions do not all read x and the same h")
        hidden.append(first)
    if shape.joint and len(set(reads.values())) != 1:
        raise NotALayer("its convolutions do not all read x and the same h")
    return reads, hidden


def _split(shape: Shape, value: Tensor, frame: Tensor) -> Iterator[tuple[str, Tensor]]:
    """In which order a convolution has read x and h, and h."""
    if not shape.joint:
        if value.shape == frame.shape and value.equal(frame):
            yield "x", value
        elif value.shape[1] == shape.channels:
            yield "h", value
    elif value.dim() == 4 and value.shape[1] == shape.in_channels + shape.channels:
        for order, x, h in (
            ("xh", value[:, : shape.in_channels], value[:, shape.in_channels :]),
            ("hx", value[:, shape.channels :], value[:, : shape.channels]),
        ):
            if x.shape == frame.shape and x.equal(frame):
                yield order, h
