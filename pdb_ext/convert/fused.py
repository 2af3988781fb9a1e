"""The forward that a recognised module gets: the op where a call is understood, and its own forward otherwise."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pdb_ext.checks import is_autocast_enabled
from pdb_ext.ops import convlstm

from .gates import (
    Rearranged,
    Recipe,
    can_take_place,
    joined,
    live_peephole,
    live_weights,
    op_bias,
    op_peephole,
    op_weights,
)

if TYPE_CHECKING:
    from .plan import CellPlan, SequencePlan

# torch.export, and torch.onnx.export, which uses it; PyTorch before 2.7 does not say.
is_exporting = getattr(torch.compiler, "is_exporting", bool)

State = tuple[Tensor, Tensor]
Memory = tuple[Rearranged, Rearranged]

# In calls with fewer pixels than this, of all images and steps, the module's own forward is as fast or faster: on the
# CPU for each size of the kernel of layers of 16 channels that read 16, others by the products that they make; there
# narrow layers leave vector registers half empty. Elsewhere for all layers.
LEAST_PIXELS = {1: 2048, 3: 256}
LEAST_PIXELS_OF_LARGE_WINDOWS = 16
LEAST_PIXELS_ELSEWHERE = {1: 1024, 3: 1024}
LEAST_PIXELS_OF_LARGE_WINDOWS_ELSEWHERE = 8192
LEAST_CHANNELS = 12
MANY_STEPS = 4  # more of them make no difference to the limits


def least_pixels(recipe: Recipe, device: str, steps: int = 1) -> int:
    """From how many pixels on, of all images and steps, the op is faster than the module's own forward."""
    k, C = recipe.kernel_size, recipe.channels
    if device != "cpu":
        return LEAST_PIXELS_ELSEWHERE.get(k, LEAST_PIXELS_OF_LARGE_WINDOWS_ELSEWHERE)
    least = LEAST_PIXELS.get(k, LEAST_PIXELS_OF_LARGE_WINDOWS)
    if least and (C < LEAST_CHANNELS or (k == 1 and C < 16)):
        return sys.maxsize
    if k in LEAST_PIXELS:
        least = least * 512 // (C * (recipe.in_channels + C))
        if not isinstance(recipe.x, str):
            least *= 2  # rearranging the weights takes a time of its own
    # What a call costs is spent once for all steps.
    return least // (1 if steps == 1 else 4 if steps < MANY_STEPS else 16)


def run_layer(
    module: nn.Module, recipe: Recipe, memory: Memory, x: Tensor, state: State | None
) -> tuple[Tensor, State] | None:
    """The op over x (T, N, Cin, H, W) with the module's weights; None if the call is none for the op."""
    tensors = [x, *(state or ())]
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or x.dim() != 5:
        return None
    weights = live_weights(module, recipe)
    _, N, in_channels, H, W = x.shape
    if weights is None or in_channels != recipe.in_channels:
        return None
    weight = weights[recipe.weights[0][0]]
    if state is not None and any(part.shape != (N, recipe.channels, H, W) for part in state):
        return None
    mixed = is_autocast_enabled(x.device.type)
    if any(tensor.device != weight.device or (tensor.dtype != weight.dtype and not mixed) for tensor in tensors):
        return None
    peephole = live_peephole(module, recipe, weight) if recipe.peephole else None
    if recipe.peephole and (peephole is None or any(p.shape[-2:] not in ((H, W), (1, 1)) for p in peephole)):
        return None
    bias = op_bias(module, recipe, weight)
    if bias is NotImplemented:
        return None
    parts, in_place = op_weights(weights, recipe), can_take_place(weight)
    take = [kept.take if in_place else joined for kept in memory]
    made = [one(part) for one, part in zip(take, parts)]
    output, (h, c) = convlstm(
        x, *made, bias, None if peephole is None else op_peephole(peephole), state,
        dilation=recipe.dilation, output_peephole=recipe.output_peephole,
    )  # fmt: skip
    if in_place:
        for kept, one, part in zip(memory, made, parts):
            kept.give_back(one, part)
    if mixed:  # PyTorch's own cell keeps the state in the wider type
        wide = torch.promote_types(c.dtype, state[1].dtype if state is not None else weight.dtype)
        output, h, c = output.to(wide), h.to(wide), c.to(wide)
    return output, (h, c)


class FusedForward:
    """Stands in an instance's `forward`, in front of that of its class. Copies and pickles with its module.

    memory: for each layer what is kept of its weights between calls. least_on_cpu, least_elsewhere: calls with fewer
    elements of x, which is the argument at `place` or of this name, are told at once to stay with the module.
    """

    def __init__(self, module: nn.Module, plan: CellPlan | SequencePlan):
        self.module, self.plan = module, plan
        self.memory = plan.new_memory()
        self.place, self.name = plan.x
        self.least_on_cpu, self.least_elsewhere = plan.least_numel("cpu"), plan.least_numel("")

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.module).forward.__get__(self.module))

    @property
    def __code__(self):
        """For tools that look at the code of a module's forward before they run it, such as torch.export."""
        return type(self.module).forward.__code__

    @property
    def __globals__(self):
        """As __code__. torch.jit.script asks for it, too, but then wants the source of a function: here is none."""
        if torch.compiler.is_compiling() or is_exporting():
            return type(self.module).forward.__globals__
        raise TypeError(
            f"torch.jit.script cannot compile a {type(self.module).__name__} that pdb_ext.convert has changed; "
            "call pdb_ext.unconvert(model) before, or use torch.jit.trace or torch.export"
        )

    def __call__(self, *args, **kwargs):
        module = self.module
        # A traced program holds for other sizes than those that were traced; the choice made here would not.
        if not torch.jit.is_tracing() and not is_exporting():
            x = args[self.place] if self.place < len(args) else kwargs.get(self.name)
            is_large = not isinstance(x, Tensor) or (
                x.numel() >= (self.least_on_cpu if x.is_cpu else self.least_elsewhere) and self.plan.pays(x)
            )
            if is_large:
                result = self.plan.run(module, self.memory, args, kwargs)
                if result is not NotImplemented:
                    return result
        return type(module).forward(module, *args, **kwargs)


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
