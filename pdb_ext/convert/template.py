"""The structure of what a module returns, with a name in the place of each tensor."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


class NoTemplate(Exception):
    """What was returned holds something else than known tensors."""


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)


def build(value: Any, convert: Callable[[Any], Any], is_leaf: Callable[[Any], bool]) -> Any:
    """The same nested tuples, named tuples, lists and dicts, with convert(leaf) in the place of each leaf."""
    if is_leaf(value):
        return convert(value)
    if type(value) is dict:
        return {key: build(part, convert, is_leaf) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(build(part, convert, is_leaf) for part in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(build(part, convert, is_leaf) for part in value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise NoTemplate(f"it returns a {type(value).__name__}")
