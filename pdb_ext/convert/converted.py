"""What `pdb_ext.convert` puts in place of two widely copied ConvLSTMs: fused layers behind their calling conventions."""

import torch
from torch import Tensor, nn

from pdb_ext.modules import ConvLSTM


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
        return _zero_state(self.layer, batch_size, self.hidden_dim, image_size)


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
        return _zero_state(self.layer, batch_size, hidden, shape)


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


def _zero_state(layer: ConvLSTM, batch_size: int, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    zeros = layer.weight_x.new_zeros(batch_size, channels, *size, requires_grad=False)
    return zeros, torch.zeros_like(zeros)
