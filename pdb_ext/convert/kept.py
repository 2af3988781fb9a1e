"""What must still be as it was when a module was compared with the op, or its own forward runs."""

import dataclasses
import operator
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

_INTERNAL = frozenset(vars(nn.Module()))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_PLAIN = frozenset((bool, int, float, str, torch.dtype, *_FUNCTIONS))


@dataclasses.dataclass(frozen=True)
class Part:
    """A module inside another one, or that one itself.

    parent: the number of the part that holds it, under `name`; children: the names of what it holds, None if that is
    not looked at; settings: names and values, and whether a value is a list, which is given as a tuple.
    """

    parent: int
    name: str
    kind: type
    children: tuple[str, ...] | None
    settings: tuple[tuple[str, Any, bool], ...]


Kept = tuple[Part, ...]  # the module itself first, parents before their children


def setting(value: Any) -> Any:
    """A value that says how a module computes: a number, a name, a function, or a tuple of such; None: another one."""
    if type(value) in _PLAIN:
        return value
    if type(value) in (tuple, list):
        parts = tuple(map(setting, value))
        if any(part is None for part in parts):
            return None
        return value if type(value) is tuple and _are_the_same(parts, value) else parts
    return None


def keep(module: nn.Module) -> Kept:
    parts: list[Part] = []

    def add(part: nn.Module | None, parent: int, name: str, above: tuple) -> None:
        if part is None or part in above:  # a module may hold one that holds it
            parts.append(Part(parent, name, type(part), None, ()))
            return
        number = len(parts)
        parts.append(Part(parent, name, type(part), tuple(part._modules), _settings(part)))
        for child, inner in part._modules.items():
            add(inner, number, child, (*above, part))

    add(module, 0, "", ())
    return tuple(parts)


def _settings(part: nn.Module) -> tuple[tuple[str, Any, bool], ...]:
    found = ((name, setting(value), type(value) is list) for name, value in vars(part).items() if name not in _INTERNAL)
    return tuple(one for one in found if one[1] is not None or vars(part)[one[0]] is None)


def is_kept(module: nn.Module, kept: Kept) -> bool:
    """Whether no class and no setting has changed, and nothing inside the module has hooks or a forward of its own.

    A forward that `convert` has put into a module inside is none of its own.
    """
    if has_global_hooks():
        return False
    found: list[nn.Module] = []
    for one in kept:
        part = found[one.parent]._modules.get(one.name) if found else module
        if type(part) is not one.kind:
            return False
        found.append(part)
        if one.children is None:
            continue
        values = vars(part)
        if tuple(part._modules) != one.children:
            return False
        if part is not module and (
            _has_own_hooks(values) or ("forward" in values and not hasattr(values["forward"], "plan"))
        ):
            return False
        for name, value, is_list in one.settings:
            now = values.get(name)
            if now is not value and not _is_same(now, value, is_list):
                return False
    return True


def _is_same(now: Any, value: Any, is_list: bool) -> bool:
    if value is None:  # what is made at the first use is no setting
        return setting(now) is None
    if type(now) is not (list if is_list else type(value)):
        return False
    if type(now) in _PLAIN:
        return now == value
    return _are_the_same(now, value) or setting(now) == value


def _are_the_same(values: Sequence, others: Sequence) -> bool:
    return len(values) == len(others) and all(map(operator.is_, values, others))


def has_hooks(module: nn.Module) -> bool:
    """Its own, or those that hold for all modules."""
    return _has_own_hooks(vars(module)) or has_global_hooks()


def _has_own_hooks(values: dict[str, Any]) -> bool:
    return bool(
        values["_forward_hooks"]
        or values["_forward_pre_hooks"]
        or values["_backward_hooks"]
        or values["_backward_pre_hooks"]
    )


def has_global_hooks() -> bool:
    return bool(
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )
