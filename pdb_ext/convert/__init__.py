"""`convert`: fused layers in place of the ConvLSTMs that everybody copies.

The two implementations (ndrplz/ConvLSTM_pytorch and automan000/Convolutional_LSTM_PyTorch) live on as copies in other
people's code, so they are recognised by their structure: names, kinds and shapes of submodules. Structure does not show
the order of the gates or a changed activation; so every cell is run beside its replacement on random numbers, and one
that answers differently is left alone, with a warning.
"""

import warnings

import torch
from torch import Tensor, nn

from pdb_ext.modules import ConvLSTM

from .converted import (
    FusedAutomanCell,
    FusedAutomanConvLSTM,
    FusedNdrplzCell,
    FusedNdrplzConvLSTM,
)

_AUTOMAN_GATES = "ifoc"  # its letters in our order i, f, o, g
_AUTOMAN_PEEPHOLES = ("Wci", "Wcf", "Wco")


def convert(module: nn.Module) -> nn.Module:
    """Replaces, anywhere in `module`, known ConvLSTM implementations by fused layers with the same weights.

    Inputs, outputs and calling conventions stay as they were; names and shapes of parameters change. So load
    checkpoints before, and make the optimizer after, converting. Known are `ConvLSTM` and `ConvLSTMCell` of
    ndrplz/ConvLSTM_pytorch and of automan000/Convolutional_LSTM_PyTorch, and copies of them. A cell that only looks
    like one of them (its output differs), or that has hooks or partly frozen weights, stays, with a warning.

    Args:
        module: any module. Its submodules are replaced in place.

    Returns:
        `module`, or its replacement if it is itself such a ConvLSTM.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"convert: module must be a torch.nn.Module, got {type(module).__name__}")
    return _convert(module, "", {})


def _convert(module: nn.Module, path: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        replacement = _replace(module, path)
        done[module] = replacement or module
        if replacement is None:
            for name, child in module._modules.items():  # named_children() would pass over a cell's second place
                if child is not None:
                    module._modules[name] = _convert(child, _join(path, name), done)
    return done[module]


def _replace(module: nn.Module, path: str) -> nn.Module | None:
    """The fused module for a cell or a stack of cells; None if it is neither."""
    for layer_of, cell, stack in (
        (_ndrplz_layer, FusedNdrplzCell, _ndrplz_stack),
        (_automan_layer, FusedAutomanCell, _automan_stack),
    ):
        layer = layer_of(module, path)
        replacement = cell(layer) if layer is not None else stack(module, path)
        if replacement is not None:
            return replacement.train(module.training)
    return None


def _is_same_convolution(conv: object, in_channels: int, out_channels: int) -> bool:
    """Whether `conv` is a Conv2d that keeps the size of its input and that `pdb_ext.convlstm` can compute."""
    if type(conv) is not nn.Conv2d or (conv.in_channels, conv.out_channels) != (in_channels, out_channels):
        return False
    (k, k_x), (dilation, dilation_x) = conv.kernel_size, conv.dilation
    same = conv.padding == "same" or conv.padding == (dilation * (k // 2),) * 2
    square = k == k_x and k % 2 == 1 and dilation == dilation_x
    return square and same and conv.stride == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"


def _layer_like(conv: nn.Conv2d, in_channels: int, channels: int, **options) -> ConvLSTM:
    weight = conv.weight
    options |= {"dilation": conv.dilation[0], "device": weight.device, "dtype": weight.dtype}
    return ConvLSTM(in_channels, channels, conv.kernel_size[0], **options)


def _set(parameter: nn.Parameter, value: Tensor, requires_grad: bool) -> None:
    with torch.no_grad():
        parameter.copy_(value)
    parameter.requires_grad_(requires_grad)


def _has_hooks(module: nn.Module) -> bool:
    return any(name.endswith("_hooks") and value for name, value in vars(module).items())


def _is_plain(module: nn.Module, path: str) -> bool:
    """Whether nothing hangs on the cell that a replacement would lose; warns if something does."""
    hooks = any(_has_hooks(part) for part in module.modules())
    weights = {parameter.requires_grad for parameter in module.parameters()}
    known = {"weight", "bias", *_AUTOMAN_PEEPHOLES}
    foreign = [
        name for name, _ in [*module.named_parameters(), *module.named_buffers()] if name.split(".")[-1] not in known
    ]
    reason = "it has hooks" if hooks else "some of its weights are frozen" if len(weights) > 1 else None
    reason = reason or (f"it has the parameter or buffer {foreign[0]}, which is not known" if foreign else None)
    if reason is not None:
        _warn(path, reason)
    return reason is None


def _stack_has_hooks(module: nn.Module, path: str) -> bool:
    """Of the stack itself; its cells are looked at one by one."""
    if _has_hooks(module):
        _warn(path, "it has hooks")
        return True
    return False


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _warn(path: str, reason: str) -> None:
    warnings.warn(f"pdb_ext.convert leaves {path or 'the module'} as it is: {reason}.", stacklevel=2)


# --- ndrplz/ConvLSTM_pytorch: one convolution of cat(x, h), rows i, f, o, g -------------------------------------------


def _ndrplz_layer(module: nn.Module, path: str) -> ConvLSTM | None:
    conv, channels = getattr(module, "conv", None), getattr(module, "hidden_dim", None)
    if [name for name, _ in module.named_children()] != ["conv"] or not isinstance(channels, int):
        return None
    in_channels = getattr(conv, "in_channels", 0) - channels
    if in_channels < 1 or not _is_same_convolution(conv, in_channels + channels, 4 * channels):
        return None
    if not _is_plain(module, path):
        return None
    layer = _layer_like(conv, in_channels, channels, bias=conv.bias is not None)
    trains = conv.weight.requires_grad
    _set(layer.weight_x, conv.weight[:, :in_channels], trains)
    _set(layer.weight_h, conv.weight[:, in_channels:], trains)
    if conv.bias is not None:
        _set(layer.bias, conv.bias, conv.bias.requires_grad)
    fused = FusedNdrplzCell(layer)
    x, h, c = _random_inputs(layer, (5, 4))
    return layer if _agree(module, lambda: module(x, (h, c)), lambda: fused(x, (h, c)), path) else None


def _ndrplz_stack(module: nn.Module, path: str) -> FusedNdrplzConvLSTM | None:
    cells = getattr(module, "cell_list", None)
    if not isinstance(cells, nn.ModuleList) or [name for name, _ in module.named_children()] != ["cell_list"]:
        return None
    options = [getattr(module, name, None) for name in ("batch_first", "return_all_layers")]
    if not cells or not all(isinstance(option, bool) for option in options):
        return None
    layers = [_ndrplz_layer(cell, _join(path, f"cell_list.{index}")) for index, cell in enumerate(cells)]
    if None in layers or _stack_has_hooks(module, path):
        return None
    fused = FusedNdrplzConvLSTM(layers, *options)
    x = _random(layers[0], 2, 2, layers[0].in_channels, 5, 4)
    return fused if _agree(module, lambda: module(x), lambda: fused(x), path) else None


# --- automan000/Convolutional_LSTM_PyTorch: eight convolutions, peepholes, o reads c_t --------------------------------


def _automan_layer(module: nn.Module, path: str) -> ConvLSTM | None:
    inputs = [getattr(module, f"Wx{gate}", None) for gate in _AUTOMAN_GATES]
    hiddens = [getattr(module, f"Wh{gate}", None) for gate in _AUTOMAN_GATES]
    if not all(isinstance(conv, nn.Conv2d) for conv in inputs + hiddens) or len(list(module.children())) != 8:
        return None
    in_channels, channels = inputs[0].in_channels, inputs[0].out_channels
    known = all(_is_same_convolution(conv, in_channels, channels) for conv in inputs)
    known &= all(_is_same_convolution(conv, channels, channels) for conv in hiddens)
    known &= len({(conv.kernel_size, conv.dilation) for conv in inputs + hiddens}) == 1
    if not known or not all(hasattr(module, name) for name in _AUTOMAN_PEEPHOLES) or not _is_plain(module, path):
        return None
    layer = _fuse_automan(module, inputs, hiddens)
    fused = FusedAutomanCell(layer)
    x, h, c = _random_inputs(layer, _peephole_size(module) or (5, 4))
    return layer if _agree(module, lambda: _run_automan(module, x, h, c), lambda: fused(x, h, c), path) else None


def _fuse_automan(module: nn.Module, inputs: list[nn.Conv2d], hiddens: list[nn.Conv2d]) -> ConvLSTM:
    peepholes = [getattr(module, name) for name in _AUTOMAN_PEEPHOLES]
    # None until its first use; then zeros that upstream makes anew for every size of picture, unless somebody trains them.
    present = all(isinstance(weight, Tensor) for weight in peepholes)
    present = present and any(isinstance(weight, nn.Parameter) or weight.any() for weight in peepholes)
    biases = [conv.bias for conv in inputs + hiddens if conv.bias is not None]
    layer = _layer_like(
        inputs[0], inputs[0].in_channels, inputs[0].out_channels, bias=bool(biases), output_peephole="current",
        peephole=(3, *peepholes[0].shape[1:]) if present else None,
    )  # fmt: skip
    _set(layer.weight_x, torch.cat([conv.weight for conv in inputs]), inputs[0].weight.requires_grad)
    _set(layer.weight_h, torch.cat([conv.weight for conv in hiddens]), hiddens[0].weight.requires_grad)
    if biases:
        rows = [_total_bias(*pair, like=layer.bias) for pair in zip(inputs, hiddens)]
        _set(layer.bias, torch.cat(rows), biases[0].requires_grad)
    if present:
        _set(layer.peephole, torch.cat(peepholes), peepholes[0].requires_grad)
    return layer


def _peephole_size(module: nn.Module) -> tuple[int, ...] | None:
    return None if module.Wci is None else tuple(module.Wci.shape[2:])


def _total_bias(input_conv: nn.Conv2d, hidden_conv: nn.Conv2d, like: Tensor) -> Tensor:
    total = like.new_zeros(input_conv.out_channels)
    for conv in (input_conv, hidden_conv):
        total = total if conv.bias is None else total + conv.bias
    return total


def _run_automan(module: nn.Module, x: Tensor, h: Tensor, c: Tensor):
    """The cell's step, with zeros lent to it where it has not made its peepholes yet."""
    missing = [name for name in _AUTOMAN_PEEPHOLES if getattr(module, name) is None]
    try:
        for name in missing:
            module.__dict__[name] = torch.zeros_like(c[:1])
        return module(x, h, c)
    finally:
        for name in missing:
            module.__dict__[name] = None


def _automan_stack(module: nn.Module, path: str) -> FusedAutomanConvLSTM | None:
    cells = list(module.named_children())
    if not cells or [name for name, _ in cells] != [f"cell{index}" for index in range(len(cells))]:
        return None
    step, effective_step = getattr(module, "step", None), getattr(module, "effective_step", None)
    if not isinstance(step, int) or step < 1 or effective_step is None:
        return None
    layers = [_automan_layer(cell, _join(path, name)) for name, cell in cells]
    if None in layers or _stack_has_hooks(module, path):
        return None
    return FusedAutomanConvLSTM(layers, step, list(effective_step))


# --- the check -------------------------------------------------------------------------------------------------------


def _random(layer: ConvLSTM, *shape: int) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return numbers.to(layer.weight_x.device, layer.weight_x.dtype)


def _random_inputs(layer: ConvLSTM, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    channels = layer.in_channels + 2 * layer.hidden_channels
    return _random(layer, 2, channels, *size).split([layer.in_channels, *[layer.hidden_channels] * 2], dim=1)


def _flatten(value) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in _flatten(part)]


def _agree(module: nn.Module, original, fused, path: str) -> bool:
    """Whether both return the same numbers, but for rounding, in training and in evaluation; warns if not."""
    was_training = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            ours = _flatten(fused())
            theirs = [_flatten((module.train(mode), original())[1]) for mode in (True, False)]
        same = all(len(ours) == len(each) and all(map(_close, ours, each)) for each in theirs)
        reason = "its output differs from that of the implementation it resembles"
    except Exception as error:  # someone else's code: whatever it raises, it is not what we know
        same, reason = False, f"it could not be called like the implementation it resembles ({error})"
    finally:
        for part, mode in was_training.items():
            part.training = mode
    if not same:
        _warn(path, reason)
    return same


def _close(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = torch.finfo(theirs.dtype).eps ** 0.5  # a wrong gate is off by tenths
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
