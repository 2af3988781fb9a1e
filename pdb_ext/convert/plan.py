"""How the calls of a recognised module are computed by the op; the others are declined."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .cell import Convention
from .fused import MANY_STEPS, Memory, State, is_fused, least_pixels, run_layer
from .gates import Rearranged, Recipe
from .kept import Kept, has_hooks, is_kept
from .template import build


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """One step, (x, h, c) to (h, c). size: H and W of the only images for which it holds; None: it holds for all."""

    recipe: Recipe
    convention: Convention
    kept: Kept
    size: tuple[int, int] | None = None

    @property
    def x(self) -> tuple[int, str]:
        return self.convention.x

    def new_memory(self) -> Memory:
        return Rearranged(), Rearranged()

    def least_numel(self, device: str) -> int:
        """No x with fewer elements is worth the op."""
        return least_pixels(self.recipe, device) * self.recipe.in_channels

    def pays(self, x: Tensor) -> bool:
        """Whether the op is worth it for x."""
        return x.numel() >= self.least_numel(x.device.type)

    def run(self, module: nn.Module, memory: Memory, args: tuple, kwargs: dict) -> Any:
        found = self.convention.unpack(args, kwargs)
        if found is None or not isinstance(found[0], Tensor) or found[0].dim() != 4 or not is_kept(module, self.kept):
            return NotImplemented
        x, h, c = found
        if self.size and x.shape[2:] != self.size:
            return NotImplemented
        result = run_layer(module, self.recipe, memory, x.unsqueeze(0), (h, c))
        if result is None:
            return NotImplemented
        values = dict(zip("hc", result[1]))
        return build(self.convention.template, values.__getitem__, lambda v: isinstance(v, str) and v in values)


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """Layers over a sequence. layers: the path of each cell, "" for a module that is cell and loop in one, its recipe.

    names: those of forward's arguments, x first. kind: "NT" for x (N, T, C, H, W), "TN" for (T, N, C, H, W), "repeat"
    for (N, C, H, W) that is the input of all steps. template: what is returned, with (kind, layer, step) in the places
    of tensors: "NT" and "TN" sequences of outputs, "h" and "c" last states, "step" the output of one step.
    state: the name of the argument with the states, if they can be given: one pair (h, c) a layer, or, with `pair`,
    that of the only layer. length: the name of the argument with the number of steps, if there is one. steps: their
    number where a call does not say it; 0: all of x; None: then the call is none for the op.
    zeros: whether x may be None, which stands for zeros. size: H and W of the only images for which the plan holds;
    None: it holds for all.
    """

    layers: tuple[tuple[str, Recipe], ...]
    names: tuple[str, ...]
    kind: str
    template: Any
    kept: Kept
    state: str = ""
    pair: bool = False
    length: str = ""
    steps: int | None = 0
    zeros: bool = False
    size: tuple[int, int] | None = None

    @property
    def x(self) -> tuple[int, str]:
        return 0, self.names[0]

    def new_memory(self) -> tuple[Memory, ...]:
        return tuple((Rearranged(), Rearranged()) for _ in self.layers)

    def least_numel(self, device: str) -> int:
        """No x with fewer elements is worth the op, however many steps it has."""
        repeats, in_channels = self.steps if self.kind == "repeat" else 1, self.layers[0][1].in_channels
        return max(least_pixels(recipe, device, MANY_STEPS) for _, recipe in self.layers) * in_channels // repeats

    def pays(self, x: Tensor) -> bool:
        """Whether the op is worth it for x in every layer."""
        if self.kind == "repeat":
            steps, numel = self.steps, x.numel() * self.steps
        else:
            steps, numel = x.shape[0 if self.kind == "TN" else 1] if x.dim() == 5 else 1, x.numel()
        pixels = numel // self.layers[0][1].in_channels
        return all(pixels >= least_pixels(recipe, x.device.type, steps) for _, recipe in self.layers)

    def run(self, module: nn.Module, memory: tuple[Memory, ...], args: tuple, kwargs: dict) -> Any:
        results = self.results(module, memory, args, kwargs)
        return NotImplemented if results is None else build(self.template, lambda leaf: _pick(results, leaf), _is_place)

    def results(
        self, module: nn.Module, memory: tuple[Memory, ...], args: tuple, kwargs: dict
    ) -> list[tuple[Tensor, Tensor, Tensor]] | None:
        """Output (T, N, C, H, W), h and c of every layer; None if the call is none for the op."""
        given = dict(zip(self.names, args))
        if len(args) > len(self.names) or any(name in given for name in kwargs):
            return None
        given |= kwargs
        x, states, steps = given.pop(self.names[0], None), given.pop(self.state, None), given.pop(self.length, None)
        pairs = self._pairs(states)
        if given or pairs is None or not self._are_own(module) or not is_kept(module, self.kept):
            return None
        x = self._frames(x, pairs, self.steps if steps is None else steps)
        if x is None or (self.size and x.shape[3:] != self.size):
            return None
        results = []
        for (path, recipe), kept, state in zip(self.layers, memory, pairs):
            result = run_layer(module.get_submodule(path), recipe, kept, x, state)
            if result is None:
                return None
            x, (h, c) = result
            results.append((x, h, c))
        return results

    def _pairs(self, states: Any) -> list[State | None] | None:
        """One state a layer; None if they are not understood."""
        if states is None:
            return [None] * len(self.layers)
        states = [states] if self.pair else states
        if not isinstance(states, (tuple, list)) or len(states) != len(self.layers):
            return None
        if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in states):
            return None
        return [tuple(pair) for pair in states]

    def _are_own(self, module: nn.Module) -> bool:
        """Whether the layers are still those that were replaced, and nobody waits for their calls."""
        cells = [module.get_submodule(path) for path, _ in self.layers if path]
        return not any(has_hooks(cell) or not is_fused(cell) for cell in cells)

    def _frames(self, x: Any, pairs: list[State | None], steps: Any) -> Tensor | None:
        """x as (T, N, C, H, W); None if it is not understood."""
        if type(steps) is not int or steps < 0:
            return None
        if x is None:
            h = pairs[0][0] if self.zeros and steps and pairs[0] is not None else None
            if not isinstance(h, Tensor) or h.dim() != 4 or h.dtype not in (torch.float32, torch.float64):
                return None
            N, _, H, W = h.shape
            return h.new_zeros(()).expand(steps, N, self.layers[0][1].in_channels, H, W)
        if not isinstance(x, Tensor) or x.dim() != (4 if self.kind == "repeat" else 5):
            return None
        if self.kind == "repeat":
            return x.expand(steps, *x.shape)
        frames = x.transpose(0, 1) if self.kind == "NT" else x
        return None if len(frames) < steps else frames[: steps or None]


def _is_place(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str)


def _pick(results: list, place: tuple[str, int, int]) -> Tensor:
    kind, layer, step = place
    output, h, c = results[layer]
    if kind in ("h", "c"):
        return h if kind == "h" else c
    # A copy, since backward needs the output of the op as it is: callers may change what they get in place.
    if kind == "step":
        return output[step].clone()
    output = output.transpose(0, 1) if kind == "NT" else output
    return output.clone(memory_format=torch.contiguous_format)  # as torch.stack gives it: callers may view it
