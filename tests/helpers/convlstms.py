"""ConvLSTMs as people write them: in their own words, with the structure and conventions of widely copied ones."""

import torch
from torch import nn


class ConvLSTMCell(nn.Module):
    def __init__(self, input_dim, hidden_dim, kernel_size, bias):
        super().__init__()
        self.input_dim, self.hidden_dim = input_dim, hidden_dim
        padding = kernel_size[0] // 2, kernel_size[1] // 2
        self.conv = nn.Conv2d(input_dim + hidden_dim, 4 * hidden_dim, kernel_size, padding=padding, bias=bias)

    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        i, f, o, g = self.conv(torch.cat([input_tensor, h], dim=1)).split(self.hidden_dim, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def init_hidden(self, batch_size, image_size):
        return tuple(self.conv.weight.new_zeros(batch_size, self.hidden_dim, *image_size) for _ in range(2))


class StackedConvLSTM(nn.Module):
    cell = ConvLSTMCell

    def __init__(self, input_dim, hidden_dims, kernel_size, batch_first=False, bias=True, return_all_layers=False):
        super().__init__()
        self.num_layers, self.batch_first, self.return_all_layers = len(hidden_dims), batch_first, return_all_layers
        dims = [input_dim, *hidden_dims]
        self.cell_list = nn.ModuleList(self.cell(a, b, kernel_size, bias) for a, b in zip(dims, hidden_dims))

    def forward(self, input_tensor, hidden_state=None):
        x = input_tensor if self.batch_first else input_tensor.transpose(0, 1)
        hidden_state = hidden_state or [cell.init_hidden(x.shape[0], x.shape[-2:]) for cell in self.cell_list]
        outputs, states = [], []
        for cell, (h, c) in zip(self.cell_list, hidden_state):
            steps = []
            for t in range(x.shape[1]):
                h, c = cell(input_tensor=x[:, t], cur_state=[h, c])
                steps.append(h)
            x = torch.stack(steps, dim=1)
            outputs.append(x)
            states.append([h, c])
        return (outputs, states) if self.return_all_layers else (outputs[-1:], states[-1:])


class PeepholeConvLSTMCell(nn.Module):
    def __init__(self, input_channels, hidden_channels, kernel_size):
        super().__init__()
        for gate in "ifco":
            for kind, channels in (("x", input_channels), ("h", hidden_channels)):
                conv = nn.Conv2d(channels, hidden_channels, kernel_size, 1, (kernel_size - 1) // 2, bias=kind == "x")
                setattr(self, f"W{kind}{gate}", conv)
        self.Wci = self.Wcf = self.Wco = None

    def forward(self, x, h, c):
        i = torch.sigmoid(self.Wxi(x) + self.Whi(h) + c * self.Wci)
        f = torch.sigmoid(self.Wxf(x) + self.Whf(h) + c * self.Wcf)
        c = f * c + i * torch.tanh(self.Wxc(x) + self.Whc(h))
        o = torch.sigmoid(self.Wxo(x) + self.Who(h) + c * self.Wco)
        return o * torch.tanh(c), c

    def init_hidden(self, batch_size, hidden, shape):
        if self.Wci is None:
            self.Wci, self.Wcf, self.Wco = (self.Wxi.weight.new_zeros(1, hidden, *shape) for _ in range(3))
        return tuple(self.Wxi.weight.new_zeros(batch_size, hidden, *shape) for _ in range(2))


class RepeatedConvLSTM(nn.Module):
    def __init__(self, input_channels, hidden_channels, kernel_size, step, effective_step):
        super().__init__()
        self.hidden_channels, self.step, self.effective_step = hidden_channels, step, effective_step
        for index, sizes in enumerate(zip([input_channels, *hidden_channels], hidden_channels)):
            setattr(self, f"cell{index}", PeepholeConvLSTMCell(*sizes, kernel_size))

    def forward(self, input):
        states, outputs = {}, []
        for step in range(self.step):
            x = input
            for index, hidden in enumerate(self.hidden_channels):
                cell = getattr(self, f"cell{index}")
                if step == 0:
                    states[index] = cell.init_hidden(len(x), hidden, x.shape[-2:])
                x, c = cell(x, *states[index])
                states[index] = x, c
            if step in self.effective_step:
                outputs.append(x)
        return outputs, (x, c)


class GatesInConvLSTMCell(nn.Module):
    """Another order of the gates, a state that may be missing, and one that is returned twice."""

    def __init__(self, input_size, hidden_size, kernel_size=3):
        super().__init__()
        self.hidden_size = hidden_size
        self.Gates = nn.Conv2d(input_size + hidden_size, 4 * hidden_size, kernel_size, padding=kernel_size // 2)

    def forward(self, input_, prev_state=None):
        if prev_state is None:
            prev_state = (input_.new_zeros(len(input_), self.hidden_size, *input_.shape[2:]),) * 2
        h, c = prev_state
        f, g, i, o = self.Gates(torch.cat([input_, h], dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class TwoConvolutionsLSTMCell(nn.Module):
    """A convolution of x and one of h, three arguments, and a constant added to the forget gate."""

    def __init__(self, in_channel, num_hidden, filter_size, layer_norm=None):
        super().__init__()
        self.num_hidden, self._forget_bias = num_hidden, 1.0
        norms = [] if layer_norm is None else [nn.LayerNorm([4 * num_hidden, *layer_norm])]
        options = {"padding": filter_size // 2, "bias": False}
        self.conv_x = nn.Sequential(nn.Conv2d(in_channel, 4 * num_hidden, filter_size, **options), *norms)
        self.conv_h = nn.Sequential(nn.Conv2d(num_hidden, 4 * num_hidden, filter_size, **options))

    def forward(self, x_t, h_t, c_t):
        i, f, g, o = (self.conv_x(x_t) + self.conv_h(h_t)).split(self.num_hidden, dim=1)
        c = torch.sigmoid(f + self._forget_bias) * c_t + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class FourConvolutionsLSTMCell(nn.Module):
    """A convolution for each gate, of cat(h, x), and states in the order (c, h)."""

    def __init__(self, in_channels, channels, kernel_size=3):
        super().__init__()
        for gate in "ogif":
            convolution = nn.Conv2d(in_channels + channels, channels, kernel_size, padding=kernel_size // 2)
            setattr(self, f"conv_{gate}", convolution)

    def forward(self, x, state):
        c, h = state
        both = torch.cat([h, x], dim=1)
        i, f, o = (torch.sigmoid(conv(both)) for conv in (self.conv_i, self.conv_f, self.conv_o))
        c = f * c + i * torch.tanh(self.conv_g(both))
        return [c, o * torch.tanh(c)]


def tensors(value):
    """The tensors in nested tuples and lists."""
    return [value] if isinstance(value, torch.Tensor) else [tensor for part in value for tensor in tensors(part)]
