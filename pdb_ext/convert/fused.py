"""The forward that a recognised module gets: the op where a call is understood, and its own forward otherwise."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from pdb_ext.checks import is_autocast_enabled
from pdb_ext.ops import convlstm

from .cell import Convention
from .gates import Recipe, live_convolutions, live_peephole, op_peephole, op_weights
from .kept import Kept, has_hooks, is_kept
from .template import build

# A call rearranges the weights, which takes a time of its own. With fewer pixels than this, of all images and steps,
# the module's own forward is as fast or faster. Windows of 5x5 and more gain less.
LEAST_PIXELS = {1: 1024, 3: 1024}
LEAST_PIXELS_OF_LARGE_WINDOWS = 8192


class FusedForward:
    """Stands in an instance's `forward`, in front of that of its class. Copies and pickles with its module."""

    def __init__(self, module: nn.Module, plan: CellPlan | SequencePlan):
        self.module, self.plan = module, plan

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.module).forward.__get__(self.module))

    @property
    def __code__(self):
        """For tools that look at the code of a module's forward before they run it, such as torch.export."""
        return type(self.module).forward.__code__

    def __call__(self, *args, **kwargs):
        # A traced program holds for other sizes than those that were traced; the choice made here would not.
        traced = torch.jit.is_tracing()
        result = NotImplemented if traced else self.plan.run(self.module, args, kwargs)
        return type(self.module).forward(self.module, *args, **kwargs) if result is NotImplemented else result


class Replicate:
    """For nn.DataParallel, whose replicas copy the attributes of their original: each needs a forward of its own."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self) -> nn.Module:
        replica = type(self.module)._replicate_for_data_parallel(self.module)
        attach(replica, self.module.__dict__["forward"].plan)
        return replica


def attach(module: nn.Module, plan: CellPlan | SequencePlan) -> None:
    module.__dict__["forward"] = FusedForward(module, plan)
    module.__dict__["_replicate_for_data_parallel"] = Replicate(module)


def detach(module: nn.Module) -> bool:
    """Whether there was anything to take away."""
    if not is_fused(module):
        return False
    del module.__dict__["forward"], module.__dict__["_replicate_for_data_parallel"]
    return True


def is_fused(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("forward"), FusedForward)


def pays(module: nn.Module, recipe: Recipe, pixels: int) -> bool:
    """Whether the op is faster than the module's own forward for this many pixels, of all images and steps."""
    convolution = module.get_submodule(recipe.convolutions[0])
    side = getattr(convolution, "kernel_size", (0,))[0]  # another module may have taken its place
    return pixels >= LEAST_PIXELS.get(side, LEAST_PIXELS_OF_LARGE_WINDOWS)


def run_layer(
    module: nn.Module, recipe: Recipe, x: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]] | None:
    """The op over x (T, N, Cin, H, W) with the module's weights; None if the call is none for the op."""
    convolutions = live_convolutions(module, recipe)
    tensors = [x, *(state or ())]
    if convolutions is None or not all(isinstance(tensor, Tensor) for tensor in tensors) or x.dim() != 5:
        return None
    T, N, in_channels, H, W = x.shape
    weight = convolutions[recipe.convolutions[0]].weight
    if in_channels != recipe.in_channels:
        return None
    if state is not None and any(tuple(part.shape) != (N, recipe.channels, H, W) for part in state):
        return None
    mixed = is_autocast_enabled(x.device.type)
    if any(tensor.device != weight.device or (tensor.dtype != weight.dtype and not mixed) for tensor in tensors):
        return None
    peephole = live_peephole(module, recipe) if recipe.peephole else None
    if recipe.peephole and (peephole is None or any(p.shape[-2:] not in ((H, W), (1, 1)) for p in peephole)):
        return None
    weights = op_weights(module, recipe, convolutions)
    output, (h, c) = convlstm(
        x, *weights, None if peephole is None else op_peephole(peephole), state,
        dilation=recipe.dilation, output_peephole=recipe.output_peephole,
    )  # fmt: skip
    if mixed:  # PyTorch's own cell keeps the state in the wider type
        wide = torch.promote_types(c.dtype, state[1].dtype if state is not None else weight.dtype)
        output, h, c = output.to(wide), h.to(wide), c.to(wide)
    return output, (h, c)


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """One step, (x, h, c) to (h, c)."""

    recipe: Recipe
    convention: Convention
    kept: Kept
    always: bool = False

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        found = self.convention.unpack(args, kwargs)
        if found is None or not isinstance(found[0], Tensor) or found[0].dim() != 4:
            return NotImplemented
        x, h, c = found
        if not (self.always or pays(module, self.recipe, x.shape[0] * x.shape[2] * x.shape[3])):
            return NotImplemented
        if not is_kept(module, self.kept):
            return NotImplemented
        result = run_layer(module, self.recipe, x.unsqueeze(0), (h, c))
        if result is None:
            return NotImplemented
        values = dict(zip("hc", result[1]))
        return build(self.convention.template, values.__getitem__, lambda v: isinstance(v, str) and v in values)


@dataclasses.dataclass(frozen=True)
class SequencePlan:
    """Layers over a sequence. layers: the path of each cell and its recipe.

    arguments: names of forward's arguments for x and, where it takes them, the states. kind: "NT" for x
    (N, T, C, H, W), "TN" for (T, N, C, H, W), "repeat" for (N, C, H, W) that is the input of all `steps` steps.
    template: what is returned, with (kind, layer, step) in the places of tensors: "NT" and "TN" sequences of outputs,
    "h" and "c" last states, "step" the output of one step. states: whether states can be given, one pair (h, c) a
    layer.
    """

    layers: tuple[tuple[str, Recipe], ...]
    arguments: tuple[str, ...]
    kind: str
    template: Any
    kept: Kept
    states: bool = False
    steps: int = 0
    always: bool = False

    def run(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        given = dict(zip(self.arguments, args))
        if len(args) > len(self.arguments) or any(name in given or name not in self.arguments for name in kwargs):
            return NotImplemented
        given |= kwargs
        x = given.get(self.arguments[0])
        states = given.get(self.arguments[1]) if len(self.arguments) > 1 else None
        pairs = self._pairs(states)
        if pairs is None or not isinstance(x, Tensor) or x.dim() != (4 if self.kind == "repeat" else 5):
            return NotImplemented
        results = self._layers(module, x, pairs)
        if results is None:
            return NotImplemented
        return build(self.template, lambda leaf: _pick(results, leaf), _is_place)

    def _pairs(self, states: Any) -> list | None:
        """One state a layer; None if they are not understood."""
        if states is None:
            return [None] * len(self.layers)
        if not self.states or not isinstance(states, (tuple, list)) or len(states) != len(self.layers):
            return None
        if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in states):
            return None
        return [tuple(pair) for pair in states]

    def _layers(self, module: nn.Module, x: Tensor, pairs: list) -> list | None:
        """Output (T, N, C, H, W), h and c of every layer; None if one of them is not as it was."""
        if self.kind == "repeat":
            x = x.expand(self.steps, *x.shape)
        elif self.kind == "NT":
            x = x.transpose(0, 1)
        cells = [module.get_submodule(path) for path, _ in self.layers]
        pixels = x.shape[0] * x.shape[1] * x.shape[-2] * x.shape[-1]
        # Seen before the first layer has run: what it computes would be thrown away.
        for cell, (_, recipe) in zip(cells, self.layers):
            if has_hooks(cell) or not is_fused(cell) or not (self.always or pays(cell, recipe, pixels)):
                return None
        if not is_kept(module, self.kept):
            return None
        results = []
        for cell, (_, recipe), state in zip(cells, self.layers, pairs):
            result = run_layer(cell, recipe, x, state)
            if result is None:
                return None
            x, (h, c) = result
            results.append((x, h, c))
        return results


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
