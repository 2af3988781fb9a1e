"""What must still be as it was when a module was compared with the op, or its own forward runs."""

import types
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

_INTERNAL = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, torch.dtype)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)

# For every module inside and the module itself: its path, its class, and its settings, pairs of a name and a value.
Kept = tuple[tuple[str, type, tuple[tuple[str, Any], ...]], ...]


def setting(value: Any) -> Any:
    """A value that says how a module computes: a number, a name, a function, or a tuple of such; None: another one."""
    if type(value) in _PLAIN or isinstance(value, _FUNCTIONS):
        return value
    if type(value) in (tuple, list):
        parts = tuple(map(setting, value))
        return None if any(part is None for part in parts) else parts
    return None


def keep(module: nn.Module) -> Kept:
    return tuple((path, type(part), _settings(part)) for path, part in module.named_modules())


def _settings(part: nn.Module) -> tuple[tuple[str, Any], ...]:
    found = ((name, setting(value)) for name, value in vars(part).items() if name not in _INTERNAL)
    return tuple((name, value) for name, value in found if value is not None)


def is_kept(module: nn.Module, kept: Kept) -> bool:
    """Whether no class and no setting has changed, and nothing inside the module has hooks."""
    parts = list(module.named_modules())
    if len(parts) != len(kept):
        return False
    for (path, part), (path_before, kind, settings) in zip(parts, kept):
        if path != path_before or type(part) is not kind or (path and has_hooks(part)):
            return False
        values = vars(part)
        if any(setting(values.get(name)) != value for name, value in settings):
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Its own, or those that hold for all modules."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
    )
