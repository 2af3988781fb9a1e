"""Recognises modules that run ConvLSTM cells over a sequence, by running them beside the op."""

import dataclasses
import inspect
from typing import Any

from torch import Tensor, nn

from .experiment import HEIGHT, WIDTH, N, NotALayer, parameters_of_forward
from .fused import SequencePlan, is_fused
from .kept import keep
from .probe import agree, close, probing, random_tensor, state_of
from .template import NoTemplate, build, leaves

_NAMES_OF_SIZES = ("input_size", "image_size", "img_size", "input_shape", "shape")
_MOST_PIXELS = 128 * 128  # of an experiment: larger ones could take minutes and gigabytes
LENGTHS = (3, 4)  # of the sequences of an experiment: what depends on T must show


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
    names = tuple(parameter.name for parameter in parameters_of_forward(module))
    required = [p for p in parameters_of_forward(module) if p.default is inspect.Parameter.empty]
    if not names or len(required) > 1:
        raise NotALayer("its forward takes more than a sequence")
    layers = tuple((path, cell.__dict__["forward"].plan.recipe) for path, cell in cells)
    reason = "it does not run its cells one after the other over a sequence"
    for kind in _kinds(module):
        plan = SequencePlan(layers, names[:1], kind, None, keep(module), steps=getattr(module, "step", 0), always=True)
        try:
            plan = _template(module, plan, LENGTHS[0])
            for length in LENGTHS:
                if why := _differs(module, plan, length, None):
                    raise NotALayer(why)
        except (NotALayer, NoTemplate) as error:
            reason = str(error)
            continue
        if len(names) > 1 and not _differs(module, with_states := _taking_states(plan, names[1]), LENGTHS[0], list):
            plan = with_states
        return dataclasses.replace(plan, always=False)
    raise NotALayer(reason)


def _kinds(module: nn.Module) -> list[str]:
    steps = getattr(module, "step", None)
    if type(steps) is int and 0 < steps <= 64:
        return ["repeat"]
    return ["TN", "NT"] if getattr(module, "batch_first", True) is False else ["NT", "TN"]


def _taking_states(plan: SequencePlan, name: str) -> SequencePlan:
    return dataclasses.replace(plan, states=True, arguments=(*plan.arguments, name))


def _inputs(module: nn.Module, plan: SequencePlan, length: int, generator) -> tuple[Tensor, list]:
    """x, and a random state for every layer."""
    like = next(module.parameters())
    size = _size(module, plan)
    C = plan.layers[0][1].in_channels
    first = {"repeat": (N,), "NT": (N, length), "TN": (length, N)}[plan.kind]
    states = [tuple(random_tensor(like, (N, recipe.channels, *size), generator) for _ in range(2))
              for _, recipe in plan.layers]  # fmt: skip
    return random_tensor(like, (*first, C, *size), generator), states


def _size(module: nn.Module, plan: SequencePlan) -> tuple[int, int]:
    """A size of image that the module allows, by its peephole weights or by the size that it was made for."""
    for path, recipe in plan.layers:
        cell = module.get_submodule(path)
        for weight in (getattr(cell, name) for name in recipe.peephole):
            if isinstance(weight, Tensor) and weight.shape[-1] > 1:
                return tuple(weight.shape[-2:])
        for part in (module, cell):
            pairs = [getattr(part, name, None) for name in _NAMES_OF_SIZES]
            pairs.append((getattr(part, "height", None), getattr(part, "width", None)))
            for pair in pairs:
                is_size = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(side) is int for side in pair)
                if is_size and 0 < pair[0] * pair[1] <= _MOST_PIXELS:
                    return tuple(pair)
    return HEIGHT, WIDTH


def _original(module: nn.Module, *arguments) -> Any:
    """Its own forward, with the cells' own forwards, whose first use may make their peephole weights."""
    return type(module).forward(module, *arguments)


def _template(module: nn.Module, plan: SequencePlan, length: int) -> SequencePlan:
    """The plan with the structure of what the module returns."""
    with probing(module) as generator:
        x, _ = _inputs(module, plan, length, generator)
        try:
            returned = _original(module, x)
        except Exception as error:  # other people's code may raise anything
            raise NotALayer(f"it could not be called with a sequence ({error})") from None
        results = plan._layers(module, x, [None] * len(plan.layers))
        if results is None:
            raise NotALayer("its cells cannot be called with this sequence")
        places = {}
        for layer, (output, h, c) in enumerate(results):
            places |= {("h", layer, 0): h, ("c", layer, 0): c}
            places |= {("NT", layer, 0): output.transpose(0, 1), ("TN", layer, 0): output}
            if plan.kind == "repeat":
                places |= {("step", layer, step): output[step] for step in range(plan.steps)}
        last = len(results) - 1
        order = sorted(places, key=lambda place: (place[1] != last, place[0] not in ("NT", "TN", "step")))

        def place_of(leaf: Tensor) -> tuple[str, int, int]:
            for place in order:
                if close(places[place], leaf):
                    return place
            raise NotALayer("its output differs from that of ConvLSTM layers")

        if not list(leaves(returned)):
            raise NotALayer("it returns no tensors")
        return dataclasses.replace(plan, template=build(returned, place_of, lambda value: isinstance(value, Tensor)))


def _differs(module: nn.Module, plan: SequencePlan, length: int, states: type | None) -> str:
    """Why the plan and the module differ; empty if they do not."""
    with probing(module) as generator:
        x, pairs = _inputs(module, plan, length, generator)
        given = [x] if states is None else [x, states(pairs)]
        try:
            _original(module, *given)  # makes what is made at the first use
            before = state_of(module)
            _original(module, *given)
            if state_of(module) != before:
                return "its forward changes its attributes"
            return agree(
                module,
                lambda: _original(module, *given),
                lambda: plan.run(module, tuple(given), {}),
                [x] if states is None else [x, *leaves(pairs)],
            )
        except Exception as error:
            return f"it could not be called with a sequence ({error})"
