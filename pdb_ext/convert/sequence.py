"""Recognises modules that run ConvLSTM cells over a sequence, by running them beside the op."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .experiment import HEIGHT, WIDTH, N, NotALayer, parameters_of_forward
from .fused import is_fused
from .kept import keep
from .plan import SequencePlan
from .probe import agree, close, probing, random_tensor, state_of
from .template import NoTemplate, build, leaves

_NAMES_OF_SIZES = ("input_size", "image_size", "img_size", "input_shape", "shape")
_MOST_PIXELS = 128 * 128  # of an experiment: larger ones could take minutes and gigabytes
LENGTHS = (3, 4)  # of the sequences of an experiment: what depends on T must show


@dataclasses.dataclass(frozen=True)
class Call:
    """A call to compare. steps: of x; states: as what they are given, None if they are not."""

    steps: int
    states: type | None = None
    length: int | None = None  # what is said to be the number of steps
    with_x: bool = True
    size: tuple[int, int] | None = None  # of the images, where it is not the module's


def cells_of(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The recognised cells in a module that has no other parameters, and whose widths follow each other."""
    fused = [(path, part) for path, part in module.named_modules() if path and is_fused(part)]
    cells = [(path, part) for path, part in fused if not _is_sequence(part)]
    if len(cells) < len(fused):  # what runs several stacks has a structure of its own
        return None
    known = {id(parameter) for _, cell in cells for parameter in cell.parameters()}
    if not cells or any(id(parameter) not in known for parameter in module.parameters()):
        return None
    recipes = [cell.__dict__["forward"].plan.recipe for _, cell in cells]
    follows = all(after.in_channels == before.channels for before, after in zip(recipes, recipes[1:]))
    return cells if follows else None


def _is_sequence(fused: nn.Module) -> bool:
    return isinstance(fused.__dict__["forward"].plan, SequencePlan)


def recognise(module: nn.Module, cells: list[tuple[str, nn.Module]]) -> SequencePlan:
    """Raises NotALayer. The plan has been compared with the module, gradients included."""
    names = names_of(module)
    layers = tuple((path, cell.__dict__["forward"].plan.recipe) for path, cell in cells)
    reason = "it does not run its cells one after the other over a sequence"
    for kind, steps in _kinds(module):
        plan = SequencePlan(layers, names, kind, None, keep(module), steps=steps)
        try:
            plan = verified(module, plan, [Call(length) for length in LENGTHS])
        except NotALayer as error:
            reason = str(error)
            continue
        plan = of_its_size(module, plan, Call(LENGTHS[0]))
        return taking(module, plan, "state", Call(LENGTHS[0], list))
    raise NotALayer(reason)


def names_of(module: nn.Module) -> tuple[str, ...]:
    """Those of forward's arguments, of which all but the first may be missing; raises NotALayer."""
    parameters = parameters_of_forward(module)
    if not parameters or any(p.default is inspect.Parameter.empty for p in parameters[1:]):
        raise NotALayer("its forward takes more than a sequence")
    return tuple(parameter.name for parameter in parameters)


def _kinds(module: nn.Module) -> list[tuple[str, int]]:
    """Kinds of x that it may take, and the number of steps where that is not the length of x, else 0."""
    steps = getattr(module, "step", None)
    if type(steps) is int and 0 < steps <= 64:
        return [("repeat", steps)]
    kinds = ["TN", "NT"] if getattr(module, "batch_first", True) is False else ["NT", "TN"]
    return [(kind, 0) for kind in kinds]


def verified(module: nn.Module, plan: SequencePlan, calls: list[Call]) -> SequencePlan:
    """The plan with the structure of what the module returns; raises NotALayer unless both agree in all calls."""
    try:
        plan = _template(module, plan, calls[0])
    except NoTemplate as error:
        raise NotALayer(str(error)) from None
    for call in calls:
        if why := differs(module, plan, call):
            raise NotALayer(why)
    return plan


def of_its_size(module: nn.Module, plan: SequencePlan, call: Call) -> SequencePlan:
    """The plan for images of the size that the module was made for alone, if both differ in a call with another one."""
    height, width = size = size_of(module, plan)
    if size == (HEIGHT, WIDTH):
        return plan
    others = differs(module, plan, dataclasses.replace(call, size=(height + 1, width + 2)))
    return dataclasses.replace(plan, size=size) if others else plan


def taking(module: nn.Module, plan: SequencePlan, role: str, call: Call) -> SequencePlan:
    """The plan with the argument that has this role ("state", "length") in a call, if there is one."""
    if getattr(plan, role):
        return plan
    for name in plan.names[1:]:
        candidate = dataclasses.replace(plan, **{role: name})
        if name not in (plan.state, plan.length) and not differs(module, candidate, call):
            return candidate
    return plan


def _inputs(module: nn.Module, plan: SequencePlan, call: Call, generator: torch.Generator):
    """Arguments by their names, and the tensors in them."""
    like, size = next(module.parameters()), call.size or size_of(module, plan)
    C = plan.layers[0][1].in_channels
    first = {"repeat": (N,), "NT": (N, call.steps), "TN": (call.steps, N)}[plan.kind]
    x = random_tensor(like, (*first, C, *size), generator)
    pairs = [tuple(random_tensor(like, (N, recipe.channels, *size), generator) for _ in range(2))
             for _, recipe in plan.layers]  # fmt: skip
    given: dict[str, Any] = {plan.names[0]: x if call.with_x else None}
    if call.states is not None:
        given[plan.state] = call.states(pairs[0] if plan.pair else pairs)
    tensors = list(leaves(given))
    if call.length is not None:
        given[plan.length] = call.length
    return given, tensors


def size_of(module: nn.Module, plan: SequencePlan) -> tuple[int, int]:
    """A size of image that the module allows, by its peephole weights or by the size that it was made for."""
    for path, recipe in plan.layers:
        cell = module.get_submodule(path)
        for weight in (getattr(cell, name) for name in recipe.peephole):
            if isinstance(weight, Tensor) and weight.shape[-1] > 1:
                return tuple(weight.shape[-2:])
        for part in (module, cell):
            if size := size_that_is_set(part):
                return size
    return HEIGHT, WIDTH


def size_that_is_set(part: nn.Module) -> tuple[int, int] | None:
    pairs = [getattr(part, name, None) for name in _NAMES_OF_SIZES]
    pairs.append((getattr(part, "height", None), getattr(part, "width", None)))
    for pair in pairs:
        is_size = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(side) is int for side in pair)
        if is_size and 0 < pair[0] * pair[1] <= _MOST_PIXELS:
            return tuple(pair)
    return None


def original(module: nn.Module, given: dict[str, Any]) -> Any:
    """Its own forward, with the cells' own forwards, whose first use may make their peephole weights."""
    return type(module).forward(module, **given)


def _template(module: nn.Module, plan: SequencePlan, call: Call) -> SequencePlan:
    """The plan with the structure of what the module returns."""
    with probing(module) as generator:
        given, _ = _inputs(module, plan, call, generator)
        try:
            returned = original(module, given)
        except Exception as error:  # other people's code may raise anything
            raise NotALayer(f"it could not be called with a sequence ({error})") from None
        results = plan.results(module, plan.new_memory(), (), given)
        if results is None:
            raise NotALayer("its cells cannot be called with this sequence")
        if not list(leaves(returned)):
            raise NotALayer("it returns no tensors")
        places = sorted(_places(results, plan.kind), key=lambda found: found[0][1] != len(results) - 1)

        def place_of(leaf: Tensor) -> tuple[str, int, int]:
            for place, value in places:
                if close(value, leaf):
                    return place
            raise NotALayer("its output differs from that of ConvLSTM layers")

        return dataclasses.replace(plan, template=build(returned, place_of, lambda value: isinstance(value, Tensor)))


def _places(results: list, kind: str) -> Iterator[tuple[tuple[str, int, int], Tensor]]:
    """What may be returned, sequences before last states; single steps where their number is always the same."""
    for layer, (output, h, c) in enumerate(results):
        yield ("NT", layer, 0), output.transpose(0, 1)
        yield ("TN", layer, 0), output
        for step, value in enumerate(output) if kind == "repeat" else ():
            yield ("step", layer, step), value
        yield ("h", layer, 0), h
        yield ("c", layer, 0), c


def differs(module: nn.Module, plan: SequencePlan, call: Call) -> str:
    """Why the plan and the module differ in a call; empty if they do not."""
    with probing(module) as generator:
        given, tensors = _inputs(module, plan, call, generator)
        try:
            original(module, given)  # makes what is made at the first use
            before = state_of(module)
            original(module, given)
            if state_of(module) != before:
                return "its forward changes its attributes"
            memory = plan.new_memory()
            return agree(module, lambda: original(module, given), lambda: plan.run(module, memory, (), given), tensors)
        except Exception as error:
            return f"it could not be called with a sequence ({error})"
