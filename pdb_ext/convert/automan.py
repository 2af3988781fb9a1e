"""automan000/Convolutional_LSTM_PyTorch: eight convolutions, peepholes, and an output gate that reads c_t."""

import torch
from torch import Tensor, nn

from pdb_ext.modules import ConvLSTM

from .check import (
    agree,
    is_plain,
    is_same_convolution,
    join,
    layer_like,
    random_inputs,
    set_parameter,
    stack_has_hooks,
    zero_state,
)

_GATES = "ifoc"  # its letters in our order i, f, o, g
_PEEPHOLES = ("Wci", "Wcf", "Wco")
_KNOWN = ("weight", "bias", *_PEEPHOLES)


def fuse(module: nn.Module, path: str) -> nn.Module | None:
    """The fused module for a `ConvLSTMCell` or a `ConvLSTM`; None for any other module."""
    layer = _layer(module, path)
    return FusedAutomanCell(layer) if layer is not None else _stack(module, path)


class FusedAutomanCell(nn.Module):
    """`ConvLSTMCell` of automan000/Convolutional_LSTM_PyTorch: one step, (x, h, c) to (h, c); o reads c_t."""

    def __init__(self, layer: ConvLSTM):
        super().__init__()
        self.layer = layer
        self.input_channels, self.hidden_channels = layer.in_channels, layer.hidden_channels
        self.kernel_size = layer.kernel_size

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        _, state = self.layer(x.unsqueeze(0), (h, c))
        return state

    def init_hidden(self, batch_size: int, hidden: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return zero_state(self.layer, batch_size, hidden, shape)


class FusedAutomanConvLSTM(nn.Module):
    """`ConvLSTM` of automan000/Convolutional_LSTM_PyTorch: the same input (N, C, H, W) for `step` steps.

    Returns (the last layer's h at each of the effective steps, (h, c) of the last layer after the last step).
    """

    def __init__(self, layers: list[ConvLSTM], step: int, effective_step: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_layers = len(layers)
        self.input_channels = [layers[0].in_channels, *(layer.hidden_channels for layer in layers)]
        self.hidden_channels = [layer.hidden_channels for layer in layers]
        self.kernel_size = layers[0].kernel_size
        self.step = step
        self.effective_step = effective_step

    def forward(self, input: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        x = input.expand(self.step, *input.shape)
        for layer in self.layers:
            x, state = layer(x)
        return [x[step] for step in range(self.step) if step in self.effective_step], state


def _layer(module: nn.Module, path: str) -> ConvLSTM | None:
    inputs = [getattr(module, f"Wx{gate}", None) for gate in _GATES]
    hiddens = [getattr(module, f"Wh{gate}", None) for gate in _GATES]
    if not all(isinstance(conv, nn.Conv2d) for conv in inputs + hiddens) or len(list(module.children())) != 8:
        return None
    in_channels, channels = inputs[0].in_channels, inputs[0].out_channels
    known = all(is_same_convolution(conv, in_channels, channels) for conv in inputs)
    known &= all(is_same_convolution(conv, channels, channels) for conv in hiddens)
    known &= len({(conv.kernel_size, conv.dilation) for conv in inputs + hiddens}) == 1
    if not known or not all(hasattr(module, name) for name in _PEEPHOLES) or not is_plain(module, path, _KNOWN):
        return None
    layer = _fused_layer(module, inputs, hiddens)
    fused = FusedAutomanCell(layer)
    x, h, c = random_inputs(layer, _peephole_size(module) or (5, 4))
    return layer if agree(module, lambda: _run(module, x, h, c), lambda: fused(x, h, c), path) else None


def _fused_layer(module: nn.Module, inputs: list[nn.Conv2d], hiddens: list[nn.Conv2d]) -> ConvLSTM:
    peepholes = [getattr(module, name) for name in _PEEPHOLES]
    # None until its first use; then zeros that upstream makes anew for every size of picture, unless someone trains
    # them.
    present = all(isinstance(weight, Tensor) for weight in peepholes)
    present = present and any(isinstance(weight, nn.Parameter) or weight.any() for weight in peepholes)
    biases = [conv.bias for conv in inputs + hiddens if conv.bias is not None]
    layer = layer_like(
        inputs[0], inputs[0].in_channels, inputs[0].out_channels, bias=bool(biases), output_peephole="current",
        peephole=(3, *peepholes[0].shape[1:]) if present else None,
    )  # fmt: skip
    set_parameter(layer.weight_x, torch.cat([conv.weight for conv in inputs]), inputs[0].weight.requires_grad)
    set_parameter(layer.weight_h, torch.cat([conv.weight for conv in hiddens]), hiddens[0].weight.requires_grad)
    if biases:
        rows = [_total_bias(*pair, like=layer.bias) for pair in zip(inputs, hiddens)]
        set_parameter(layer.bias, torch.cat(rows), biases[0].requires_grad)
    if present:
        set_parameter(layer.peephole, torch.cat(peepholes), peepholes[0].requires_grad)
    return layer


def _peephole_size(module: nn.Module) -> tuple[int, ...] | None:
    return None if module.Wci is None else tuple(module.Wci.shape[2:])


def _total_bias(input_conv: nn.Conv2d, hidden_conv: nn.Conv2d, like: Tensor) -> Tensor:
    total = like.new_zeros(input_conv.out_channels)
    for conv in (input_conv, hidden_conv):
        total = total if conv.bias is None else total + conv.bias
    return total


def _run(module: nn.Module, x: Tensor, h: Tensor, c: Tensor):
    """The cell's step, with zeros lent to it where it has not made its peepholes yet."""
    missing = [name for name in _PEEPHOLES if getattr(module, name) is None]
    try:
        for name in missing:
            module.__dict__[name] = torch.zeros_like(c[:1])
        return module(x, h, c)
    finally:
        for name in missing:
            module.__dict__[name] = None


def _stack(module: nn.Module, path: str) -> FusedAutomanConvLSTM | None:
    cells = list(module.named_children())
    if not cells or [name for name, _ in cells] != [f"cell{index}" for index in range(len(cells))]:
        return None
    step, effective_step = getattr(module, "step", None), getattr(module, "effective_step", None)
    if not isinstance(step, int) or step < 1 or effective_step is None:
        return None
    layers = [_layer(cell, join(path, name)) for name, cell in cells]
    if None in layers or stack_has_hooks(module, path):
        return None
    return FusedAutomanConvLSTM(layers, step, list(effective_step))
