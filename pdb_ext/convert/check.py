"""The checks that every implementation must pass before a fused layer replaces it."""

import warnings
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from pdb_ext.modules import ConvLSTM


def is_same_convolution(conv: object, in_channels: int, out_channels: int) -> bool:
    """Whether `conv` is a Conv2d that keeps the size of its input and that `pdb_ext.convlstm` can compute."""
    if type(conv) is not nn.Conv2d or (conv.in_channels, conv.out_channels) != (in_channels, out_channels):
        return False
    (k, k_x), (dilation, dilation_x) = conv.kernel_size, conv.dilation
    same = conv.padding == "same" or conv.padding == (dilation * (k // 2),) * 2
    square = k == k_x and k % 2 == 1 and dilation == dilation_x
    return square and same and conv.stride == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"


def layer_like(conv: nn.Conv2d, in_channels: int, channels: int, **options) -> ConvLSTM:
    weight = conv.weight
    options |= {"dilation": conv.dilation[0], "device": weight.device, "dtype": weight.dtype}
    return ConvLSTM(in_channels, channels, conv.kernel_size[0], **options)


def set_parameter(parameter: nn.Parameter, value: Tensor, requires_grad: bool) -> None:
    with torch.no_grad():
        parameter.copy_(value)
    parameter.requires_grad_(requires_grad)


def has_hooks(module: nn.Module) -> bool:
    return any(name.endswith("_hooks") and value for name, value in vars(module).items())


def is_plain(module: nn.Module, path: str, known: Collection[str]) -> bool:
    """Whether a replacement would keep everything that the cell has; warns if not.

    known: the last parts of the names of the parameters and buffers that the replacement takes over.
    """
    hooks = any(has_hooks(part) for part in module.modules())
    trained = {parameter.requires_grad for parameter in module.parameters()}
    names = [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]
    foreign = [name for name in names if name.split(".")[-1] not in known]
    reason = "it has hooks" if hooks else "some of its weights are frozen" if len(trained) > 1 else None
    reason = reason or (f"it has the unknown parameter or buffer {foreign[0]}" if foreign else None)
    if reason is not None:
        warn(path, reason)
    return reason is None


def stack_has_hooks(module: nn.Module, path: str) -> bool:
    """Whether the stack itself has hooks, and warns if so; its cells are checked one by one."""
    if has_hooks(module):
        warn(path, "it has hooks")
        return True
    return False


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def warn(path: str, reason: str) -> None:
    warnings.warn(f"pdb_ext.convert leaves {path or 'the module'} as it is: {reason}.", stacklevel=2)


def zero_state(layer: ConvLSTM, batch_size: int, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    zeros = layer.weight_x.new_zeros(batch_size, channels, *size, requires_grad=False)
    return zeros, torch.zeros_like(zeros)


def random_tensor(layer: ConvLSTM, *shape: int) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return numbers.to(layer.weight_x.device, layer.weight_x.dtype)


def random_inputs(layer: ConvLSTM, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """x, h and c for one step of the layer at a size (height, width)."""
    channels = layer.in_channels + 2 * layer.hidden_channels
    return random_tensor(layer, 2, channels, *size).split([layer.in_channels, *[layer.hidden_channels] * 2], dim=1)


def agree(module: nn.Module, original: Callable, fused: Callable, path: str) -> bool:
    """Whether both return the same numbers, up to rounding, in training and in evaluation; warns if not."""
    was_training = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            ours = _flatten(fused())
            theirs = [_flatten((module.train(mode), original())[1]) for mode in (True, False)]
        same = all(len(ours) == len(each) and all(map(_close, ours, each)) for each in theirs)
        reason = "its output differs from that of the implementation it resembles"
    except (
        Exception
    ) as error:  # other people's code may raise anything; what raises here is not an implementation that we know
        same, reason = False, f"it could not be called like the implementation it resembles ({error})"
    finally:
        for part, mode in was_training.items():
            part.training = mode
    if not same:
        warn(path, reason)
    return same


def _close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5  # a wrong gate is off by tenths
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def _flatten(value) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _flatten(part)]
