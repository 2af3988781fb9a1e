"""ConvLSTMs as people write them: in their own words, with the structure and conventions of widely copied ones."""

import contextlib
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

import pdb_ext
from pdb_ext.convert import fused

H, W = 12, 13


@contextlib.contextmanager
def op_at_any_size():
    """Modules that are converted inside the block use the op there however small a call is."""
    names = [name for name in vars(fused) if name.startswith("LEAST_PIXELS")]
    with contextlib.ExitStack() as patches:
        for name in names:
            least = getattr(fused, name)
            patches.enter_context(mock.patch.object(fused, name, dict.fromkeys(least, 0) if type(least) is dict else 0))
        yield


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


class LoopedConvLSTM(nn.Module):
    """A cell and its loop in one module, with peepholes, for a number of steps that may be said; x may be missing."""

    def __init__(self, channels_in, channels, size, peepholes, batch_first=False, length=None):
        super().__init__()
        self.channels_in, self.channels, self.size, self.length = channels_in, channels, size, length
        self.batch_first = batch_first
        self._conv = nn.Conv2d(channels_in + channels, 4 * channels, 3, padding=1)
        self.Wci, self.Wcf, self.Wco = (peepholes(torch.randn(1, channels, *size)) for _ in range(3))

    def forward(self, inputs=None, states=None, seq_len=None):
        if states is None:
            batch = inputs.shape[0 if self.batch_first else 1]
            states = (self._conv.weight.new_zeros(batch, self.channels, *self.size),) * 2
        h, c = states
        outputs = []
        time_first = inputs if inputs is None or not self.batch_first else inputs.transpose(0, 1)
        for t in range(seq_len or self.length or len(time_first)):
            x = h.new_zeros(len(h), self.channels_in, *self.size) if inputs is None else time_first[t]
            i, f, g, o = self._conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            i, f = torch.sigmoid(i + self.Wci * c), torch.sigmoid(f + self.Wcf * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.Wco * c) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1 if self.batch_first else 0), (h, c)


class ParametersLSTMCell(nn.Module):
    """No convolution is a module, and biases are added outside of them."""

    def __init__(self, channels_in, channels, kernel_size=3):
        super().__init__()
        window = (kernel_size, kernel_size)
        for gate in "igof":
            self.register_parameter(f"x{gate}", nn.Parameter(0.1 * torch.randn(channels, channels_in, *window)))
            self.register_parameter(f"h{gate}", nn.Parameter(0.1 * torch.randn(channels, channels, *window)))
            self.register_parameter(f"bias_{gate}", nn.Parameter(torch.randn(channels)))

    def gate(self, name, x, h):
        both = F.conv2d(x, getattr(self, f"x{name}"), padding="same") + F.conv2d(
            h, getattr(self, f"h{name}"), padding="same"
        )
        return both + getattr(self, f"bias_{name}").view(1, -1, 1, 1)

    def forward(self, x, h, c):
        i, f, o = (torch.sigmoid(self.gate(name, x, h)) for name in "ifo")
        c = f * c + i * torch.tanh(self.gate("g", x, h))
        return o * torch.tanh(c), c


class OneParameterLSTMCell(nn.Module):
    """One weight and one bias, neither of them a module's."""

    def __init__(self, channels_in, channels):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(4 * channels, channels + channels_in, 3, 3))
        self.bias = nn.Parameter(torch.randn(4 * channels))

    def forward(self, x, state):
        h, c = state
        f, i, g, o = F.conv2d(torch.cat([h, x], dim=1), self.weight, self.bias, padding=1).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class NormalisableLSTMCell(ConvLSTMCell):
    """Has normalisations and uses them only if it is told so."""

    def __init__(self, *sizes, normalise=False):
        super().__init__(*sizes)
        self.normalise = normalise
        self.norm, self.norm_c = nn.BatchNorm2d(4), nn.GroupNorm(2, self.hidden_dim)

    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return (h, self.norm_c(c)) if self.normalise else (h, c)


class ScalarBiasLSTMCell(nn.Module):
    """A number for each gate, in a tensor that is no parameter."""

    def __init__(self, channels_in, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels_in + channels, 4 * channels, 3, padding=1, bias=False)
        self.bias = torch.tensor([1.0, 0.5, -1.0, 0.0], requires_grad=True)

    def forward(self, x, state):
        i, f, o, g = self.conv(torch.cat([x, state[0]], dim=1)).chunk(4, dim=1)
        i, f, o = (torch.sigmoid(gate + number) for gate, number in zip((i, f, o), self.bias))
        c = f * state[1] + i * torch.tanh(g + self.bias[3])
        return o * torch.tanh(c), c


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def frame(C=3):
    return randn(2, C, H, W)


def results(module, inputs):
    """What the module returns, and the gradients of its inputs and parameters."""
    returned = module(*inputs)
    wanted = [*tensors(inputs), *module.parameters()]
    loss = sum((tensor * torch.cos(3 * tensor.detach())).sum() for tensor in tensors(returned))
    return returned, torch.autograd.grad(loss, wanted, allow_unused=True)


def assert_converts(module, *inputs, ops=1):
    """ops: calls of the op that one call of the module makes afterwards."""
    module = module.double()
    returned, grads = results(module, inputs)
    classes = [type(part) for part in module.modules()]
    values = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.get_rng_state()
    converted, report = pdb_ext.convert(module, strict=True, return_report=True)
    assert converted is module and [type(part) for part in module.modules()] == classes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(module.state_dict()) == list(values)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in values.items())
    with pdb_ext.record_calls() as calls:
        new_returned, new_grads = results(module, inputs)
    assert sum(call["op"] == "convlstm" for call in calls) == ops if calls else ops == 0
    assert [value.stride() for value in tensors(new_returned)] == [value.stride() for value in tensors(returned)]
    structure = torch.utils._pytree.tree_structure
    assert structure(new_returned) == structure(returned)
    torch.testing.assert_close(new_returned, returned)
    torch.testing.assert_close(new_grads, grads)
    return report
