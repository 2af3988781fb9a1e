"""ndrplz/ConvLSTM_pytorch: one convolution of cat(x, h), whose rows are the gates i, f, o, g."""

from torch import Tensor, nn

from pdb_ext.modules import ConvLSTM

from .check import (
    agree,
    is_plain,
    is_same_convolution,
    join,
    layer_like,
    random_inputs,
    random_tensor,
    set_parameter,
    stack_has_hooks,
    zero_state,
)

_KNOWN = ("weight", "bias")


def fuse(module: nn.Module, path: str) -> nn.Module | None:
    """The fused module for a `ConvLSTMCell` or a `ConvLSTM`; None for any other module."""
    layer = _layer(module, path)
    return FusedNdrplzCell(layer) if layer is not None else _stack(module, path)


class FusedNdrplzCell(nn.Module):
    """`ConvLSTMCell` of ndrplz/ConvLSTM_pytorch: one step, (x, (h, c)) to (h, c), every tensor (N, channels, H, W)."""

    def __init__(self, layer: ConvLSTM):
        super().__init__()
        self.layer = layer
        self.input_dim, self.hidden_dim = layer.in_channels, layer.hidden_channels
        self.kernel_size = (layer.kernel_size, layer.kernel_size)

    def forward(self, input_tensor: Tensor, cur_state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        _, state = self.layer(input_tensor.unsqueeze(0), tuple(cur_state))
        return state

    def init_hidden(self, batch_size: int, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return zero_state(self.layer, batch_size, self.hidden_dim, image_size)


class FusedNdrplzConvLSTM(nn.Module):
    """`ConvLSTM` of ndrplz/ConvLSTM_pytorch: a stack of layers over a sequence.

    forward: x (N, T, C, H, W), or (T, N, C, H, W) if not batch_first, to (outputs, states): one output (N, T, C, H, W),
    batch first in any case, and one state [h, c] for the last layer, or for each if return_all_layers.
    """

    def __init__(self, layers: list[ConvLSTM], batch_first: bool, return_all_layers: bool):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.num_layers = len(layers)
        self.input_dim = layers[0].in_channels
        self.hidden_dim = [layer.hidden_channels for layer in layers]
        self.kernel_size = [(layer.kernel_size, layer.kernel_size) for layer in layers]
        self.bias = layers[0].bias is not None
        self.batch_first = batch_first
        self.return_all_layers = return_all_layers

    def forward(
        self, input_tensor: Tensor, hidden_state: list | None = None
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        if hidden_state is not None and len(hidden_state) != self.num_layers:
            raise ValueError(f"hidden_state must be None or {self.num_layers} pairs (h, c), got {len(hidden_state)}")
        x = input_tensor.transpose(0, 1) if self.batch_first else input_tensor
        outputs, states = [], []
        for layer, state in zip(self.layers, hidden_state or [None] * self.num_layers):
            x, state = layer(x, None if state is None else tuple(state))
            outputs.append(x.transpose(0, 1))
            states.append(list(state))
        return (outputs, states) if self.return_all_layers else (outputs[-1:], states[-1:])


def _layer(module: nn.Module, path: str) -> ConvLSTM | None:
    conv, channels = getattr(module, "conv", None), getattr(module, "hidden_dim", None)
    if [name for name, _ in module.named_children()] != ["conv"] or not isinstance(channels, int):
        return None
    in_channels = getattr(conv, "in_channels", 0) - channels
    if in_channels < 1 or not is_same_convolution(conv, in_channels + channels, 4 * channels):
        return None
    if not is_plain(module, path, _KNOWN):
        return None
    layer = layer_like(conv, in_channels, channels, bias=conv.bias is not None)
    trains = conv.weight.requires_grad
    set_parameter(layer.weight_x, conv.weight[:, :in_channels], trains)
    set_parameter(layer.weight_h, conv.weight[:, in_channels:], trains)
    if conv.bias is not None:
        set_parameter(layer.bias, conv.bias, conv.bias.requires_grad)
    fused = FusedNdrplzCell(layer)
    x, h, c = random_inputs(layer, (5, 4))
    return layer if agree(module, lambda: module(x, (h, c)), lambda: fused(x, (h, c)), path) else None


def _stack(module: nn.Module, path: str) -> FusedNdrplzConvLSTM | None:
    cells = getattr(module, "cell_list", None)
    if not isinstance(cells, nn.ModuleList) or [name for name, _ in module.named_children()] != ["cell_list"]:
        return None
    options = [getattr(module, name, None) for name in ("batch_first", "return_all_layers")]
    if not cells or not all(isinstance(option, bool) for option in options):
        return None
    layers = [_layer(cell, join(path, f"cell_list.{index}")) for index, cell in enumerate(cells)]
    if None in layers or stack_has_hooks(module, path):
        return None
    fused = FusedNdrplzConvLSTM(layers, *options)
    x = random_tensor(layers[0], 2, 2, layers[0].in_channels, 5, 4)
    return fused if agree(module, lambda: module(x), lambda: fused(x), path) else None
