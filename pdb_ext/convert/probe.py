"""A module to experiment with: random weights and inputs, and everything as it was afterwards."""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .kept import setting
from .template import leaves


@contextlib.contextmanager
def probing(module: nn.Module) -> Iterator[torch.Generator]:
    """Inside the block the module may be run and changed: weights are random, and gradients can be computed.

    Autocast and inference mode are off. Afterwards the module has its own weights, buffers, attributes, modes and
    gradients again, and the global random number generators of PyTorch, Python and NumPy go on as if nothing had run.
    Gates that have the same weights, zeros for instance, could not be told apart by its own weights.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = list(module.parameters())
    values = [parameter.data for parameter in parameters]
    trained = [parameter.requires_grad for parameter in parameters]
    grads = [parameter.grad for parameter in parameters]
    parts = [(part, *(dict(kind) for kind in _dicts(part))) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    contents = [(value, value.copy()) for part in module.modules() for value in _collections(part)]
    devices = {parameter.device for parameter in parameters if parameter.device.type == "cuda"}
    with contextlib.ExitStack() as plain:
        plain.enter_context(torch.random.fork_rng(sorted(device.index or 0 for device in devices)))
        plain.enter_context(_other_generators_kept())
        plain.enter_context(torch.inference_mode(False))
        plain.enter_context(torch.enable_grad())
        for device in {parameter.device.type for parameter in parameters}:
            plain.enter_context(torch.autocast(device, enabled=False))
        try:
            for parameter in parameters:
                parameter.data = random_like(parameter.data, generator)
                if parameter.is_floating_point() and not parameter.requires_grad:
                    parameter.requires_grad_()
            yield generator
        finally:
            for value, before in contents:
                value.clear()
                value.extend(before) if isinstance(value, list) else value.update(before)
            for part, *kinds in parts:
                for now, before in zip(_dicts(part), kinds):
                    now.clear()
                    now.update(before)
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
            for parameter, value, grad, before in zip(parameters, values, grads, trained):
                parameter.data = value
                parameter.grad = grad
                if parameter.requires_grad != before:
                    parameter.requires_grad_(before)


@contextlib.contextmanager
def _other_generators_kept() -> Iterator[None]:
    """Those of Python, and of NumPy where a program has loaded it."""
    numpy_random = sys.modules.get("numpy.random")
    state, numpy_state = random.getstate(), numpy_random and numpy_random.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy_random:
            numpy_random.set_state(numpy_state)


def _dicts(part: nn.Module) -> tuple[dict, ...]:
    """What a module keeps, in the order in which it is put back: its attributes name the dicts after them."""
    return part.__dict__, part._parameters, part._buffers, part._modules


def _collections(part: nn.Module) -> list[list | dict]:
    """Lists and dicts among its attributes, such as states that it remembers."""
    return [value for name, value in part.__dict__.items() if type(value) in (list, dict) and not name.startswith("_")]


def random_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Large enough for every gate to matter, small enough for none to saturate."""
    fan_in = max(tensor[0].numel() if tensor.dim() > 1 else 4, 1)
    scale = min(1.5 * fan_in**-0.5, 0.5)
    return (torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu") * scale).to(tensor)


def random_tensor(like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """For an input, of which gradients are wanted."""
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return numbers.to(like.device, like.dtype).requires_grad_()


def state_of(module: nn.Module) -> list[tuple]:
    """What a stateless forward leaves as it is: attributes, buffers and their values."""
    seen = []
    for part in module.modules():
        kept = {name: value for name, value in part.__dict__.items() if not name.startswith("_")}
        kept |= part._buffers
        for name, value in kept.items():
            plain = setting(value)
            same = plain if plain is not None else (id(value), getattr(value, "_version", 0))
            seen.append((id(part), name, same))
        seen += [tuple(map(id, value.values() if isinstance(value, dict) else value)) for value in _collections(part)]
    return seen


def agree(module: nn.Module, original: Callable[[], Any], ours: Callable[[], Any], inputs: list[Tensor]) -> str:
    """Why the two differ in results or gradients, in training or in evaluation; empty if they do not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for mode in (False, True):
        set_mode(module, mode)
        expected, actual = ([*leaves(run())] for run in (original, ours))
        if len(expected) != len(actual) or not all(map(close, actual, expected)):
            return "its output differs from that of a ConvLSTM"
        wanted = [*inputs, *parameters]
        for one, other in zip(_gradients(expected, wanted), _gradients(actual, wanted), strict=True):
            if (one is None) != (other is None) or (one is not None and not close(other, one)):
                return "its gradients differ from those of a ConvLSTM"
    return ""


def set_mode(module: nn.Module, training: bool) -> None:
    for part in module.modules():
        part.training = training  # train() may be overridden


def _gradients(outputs: list[Tensor], wanted: list[Tensor]) -> list[Tensor | None]:
    outputs = [output for output in outputs if output.requires_grad]
    return list(torch.autograd.grad(outputs, wanted, list(map(cotangent, outputs)), allow_unused=True))


def cotangent(output: Tensor) -> Tensor:
    return torch.cos(3 * output.detach().double()).to(output)


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Up to rounding: a wrong gate is off by tenths."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5
    scale = max(1.0, float(theirs.detach().abs().max()) if theirs.numel() else 1.0)
    return torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance * scale)
