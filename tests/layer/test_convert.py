"""`convert` against the two implementations that it replaces, rebuilt here with their structure and conventions."""

import pytest
import torch
from torch import nn

import pdb_ext


class NdrplzCell(nn.Module):
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


class NdrplzConvLSTM(nn.Module):
    cell = NdrplzCell

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


class AutomanCell(nn.Module):
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


class AutomanConvLSTM(nn.Module):
    def __init__(self, input_channels, hidden_channels, kernel_size, step, effective_step):
        super().__init__()
        self.hidden_channels, self.step, self.effective_step = hidden_channels, step, effective_step
        for index, sizes in enumerate(zip([input_channels, *hidden_channels], hidden_channels)):
            setattr(self, f"cell{index}", AutomanCell(*sizes, kernel_size))

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


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else [tensor for part in value for tensor in tensors(part)]


def assert_converts(module, *inputs):
    expected = module(*inputs)
    grads = torch.autograd.grad(sum(t.square().sum() for t in tensors(expected)), inputs[0])
    converted = pdb_ext.convert(module)
    assert any(isinstance(part, pdb_ext.ConvLSTM) for part in converted.modules())
    output = converted(*inputs)
    assert torch.utils._pytree.tree_structure(output) == torch.utils._pytree.tree_structure(expected)
    torch.testing.assert_close(output, expected)
    new_grads = torch.autograd.grad(sum(t.square().sum() for t in tensors(output)), inputs[0])
    torch.testing.assert_close(new_grads, grads)
    return converted


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("return_all_layers", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_ndrplz(batch_first, return_all_layers, bias):
    module = NdrplzConvLSTM(3, [4, 6], (3, 3), batch_first, bias, return_all_layers).double()
    assert_converts(module, randn(2, 5, 3, 7, 8))


def test_ndrplz_with_initial_states():
    module = NdrplzConvLSTM(3, [4], (5, 5), True).double()
    converted = assert_converts(module, randn(2, 5, 3, 7, 8), [(randn(2, 4, 7, 8), randn(2, 4, 7, 8))])
    with pytest.raises(ValueError, match="1 pairs"):
        converted(randn(2, 5, 3, 7, 8), [None, None])


def test_ndrplz_cell_of_its_own():
    assert_converts(NdrplzCell(3, 4, (3, 3), True).double(), randn(2, 3, 7, 8), (randn(2, 4, 7, 8), randn(2, 4, 7, 8)))


@pytest.mark.parametrize("used_before", [False, True])
def test_automan(used_before):
    module = AutomanConvLSTM(3, [4, 6], 3, step=5, effective_step=[1, 4]).double()
    if used_before:
        module(randn(2, 3, 7, 8))
        for cell in (module.cell0, module.cell1):
            cell.Wci, cell.Wcf, cell.Wco = (torch.randn_like(cell.Wci) for _ in range(3))
    assert_converts(module, randn(2, 3, 7, 8))


def test_automan_is_not_tied_to_the_size_of_its_first_picture():
    module = AutomanConvLSTM(3, [4], 3, step=2, effective_step=[1]).double()
    module(randn(1, 3, 7, 8))
    assert pdb_ext.convert(module)(randn(1, 3, 5, 6))[0][0].shape == (1, 4, 5, 6)


def test_automan_cell_with_trained_peepholes():
    cell = AutomanCell(3, 4, 5).double()
    del cell.Wci, cell.Wcf, cell.Wco
    for name in ("Wci", "Wcf", "Wco"):
        setattr(cell, name, nn.Parameter(torch.randn(1, 4, 7, 8, dtype=torch.float64)))
    converted = assert_converts(cell, randn(2, 3, 7, 8), randn(2, 4, 7, 8), randn(2, 4, 7, 8))
    assert converted.layer.peephole.requires_grad


def test_unused_cell_keeps_its_missing_peepholes():
    cell = AutomanCell(3, 4, 3)
    pdb_ext.convert(nn.Sequential(cell))
    assert cell.Wci is None and cell.Wcf is None and cell.Wco is None


def test_anywhere_in_a_model():
    class Forecast(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Identity())
            self.memory = nn.ModuleDict({"a": NdrplzConvLSTM(3, [4], (3, 3), True)})
            self.again = self.memory["a"]

        def forward(self, x):
            x = self.encoder(x.transpose(1, 2)).transpose(1, 2)
            return self.memory["a"](x)[0][0] + self.again(x)[0][0]

    model = Forecast().double()
    encoder = model.encoder
    converted = assert_converts(model, randn(2, 5, 1, 7, 8))
    assert converted is model and model.encoder is encoder and model.again is model.memory["a"]


def test_a_cell_in_two_places_stays_one_cell():
    cell = NdrplzCell(3, 3, (3, 3), True)
    converted = pdb_ext.convert(nn.ModuleList([cell, cell]))
    assert converted[0] is converted[1] and isinstance(converted[0].layer, pdb_ext.ConvLSTM)


def test_weights_dtype_mode_and_frozen_parameters_are_kept():
    module = NdrplzConvLSTM(3, [4], (3, 3)).bfloat16().eval().requires_grad_(False)
    layer = pdb_ext.convert(module).layers[0]
    assert torch.equal(torch.cat([layer.weight_x, layer.weight_h], 1), module.cell_list[0].conv.weight)
    assert layer.weight_x.dtype == torch.bfloat16 and not layer.training
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert not module.cell_list[0].training


class OtherGateOrder(NdrplzCell):
    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        f, i, o, g = self.conv(torch.cat([input_tensor, h], dim=1)).split(self.hidden_dim, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class OtherInTraining(NdrplzCell):
    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return (nn.functional.dropout(h, 0.9), c) if self.training else (h, c)


class OtherArguments(NdrplzCell):
    def forward(self, x):
        return x


class StackOfOthers(NdrplzConvLSTM):
    cell = OtherGateOrder


def hooked(*sizes):
    cell = NdrplzCell(*sizes)
    cell.conv.register_forward_hook(lambda *_: None)
    return cell


def partly_frozen(*sizes):
    cell = NdrplzCell(*sizes)
    cell.conv.bias.requires_grad_(False)
    return cell


def with_more_weights(*sizes):
    cell = NdrplzCell(*sizes)
    cell.scale = nn.Parameter(torch.ones(1))
    return cell


@pytest.mark.parametrize(
    "make", [OtherGateOrder, OtherArguments, OtherInTraining, hooked, partly_frozen, with_more_weights]
)
def test_lookalikes_are_left_alone_with_a_warning(make):
    cell = make(3, 4, (3, 3), True).eval()
    with pytest.warns(UserWarning, match="leaves .* as it is"):
        assert pdb_ext.convert(nn.Sequential(cell))[0] is cell


@pytest.mark.parametrize(
    "stack",
    [NdrplzConvLSTM(3, [4], (3, 3)), AutomanConvLSTM(3, [4], 3, step=1, effective_step=[0])],
    ids=["ndrplz", "automan"],
)
def test_a_hooked_stack_stays_and_its_cells_are_converted(stack):
    stack.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="leaves the module as it is: it has hooks"):
        assert pdb_ext.convert(stack) is stack
    assert any(isinstance(part, pdb_ext.ConvLSTM) for part in stack.modules()) and stack._forward_hooks


def test_stack_of_lookalikes_is_left_alone():
    stack = StackOfOthers(3, [4], (3, 3))
    with pytest.warns(UserWarning, match=r"leaves cell_list\.0 as it is"):
        assert pdb_ext.convert(stack) is stack
    assert isinstance(stack.cell_list[0], OtherGateOrder)


@pytest.mark.parametrize(
    "module",
    [
        NdrplzCell(3, 4, (3, 5), True),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.LSTM(3, 4)),
        pdb_ext.PDBConvLSTM(3, 4),
    ],
    ids=["kernel 3x5", "nothing recurrent", "ours"],
)
def test_what_is_not_known_stays(module):
    before = [id(part) for part in module.modules()]
    assert [id(part) for part in pdb_ext.convert(module).modules()] == before


def test_converting_twice_changes_nothing():
    once = pdb_ext.convert(NdrplzConvLSTM(3, [4], (3, 3)))
    before = [id(part) for part in once.modules()]
    assert [id(part) for part in pdb_ext.convert(once).modules()] == before


def test_only_modules():
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got dict"):
        pdb_ext.convert({})
