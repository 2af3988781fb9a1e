"""`convert` on ConvLSTMs as people write them: what is recognised computes the same, in the same form, by the op."""

import pytest
import torch
from torch import nn

import pdb_ext
from helpers.convlstms import (
    ConvLSTMCell,
    FourConvolutionsLSTMCell,
    GatesInConvLSTMCell,
    H,
    PeepholeConvLSTMCell,
    RepeatedConvLSTM,
    StackedConvLSTM,
    TwoConvolutionsLSTMCell,
    W,
    assert_converts,
    frame,
    op_at_any_size,
    randn,
)


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


CELLS = {
    "one convolution": lambda: ConvLSTMCell(3, 4, (3, 3), True),
    "no bias": lambda: ConvLSTMCell(3, 4, (3, 3), False),
    "as many channels": lambda: ConvLSTMCell(4, 4, (3, 3), True),
    "1x1": lambda: ConvLSTMCell(3, 4, (1, 1), True),
    "7x7": lambda: ConvLSTMCell(3, 4, (7, 7), True),
    "another order": lambda: GatesInConvLSTMCell(3, 4),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("state", [tuple, list])
def test_cells_of_a_pair(kind, state):
    cell = CELLS[kind]()
    x = frame(4 if kind == "as many channels" else 3)
    assert assert_converts(cell, x, state([frame(4), frame(4)])).replaced == ("",)


@pytest.mark.parametrize("in_channels", [3, 4])
def test_cell_of_two_convolutions(in_channels):
    cell = TwoConvolutionsLSTMCell(in_channels, 4, 3)
    assert_converts(cell, frame(in_channels), frame(4), frame(4))


def test_cell_of_four_convolutions_with_c_before_h():
    assert_converts(FourConvolutionsLSTMCell(3, 4), frame(), (frame(4), frame(4)))


@pytest.mark.parametrize("in_channels", [3, 4])
def test_cell_of_eight_convolutions_with_peepholes(in_channels):
    cell = PeepholeConvLSTMCell(in_channels, 4, 3)
    for name in ("Wci", "Wcf", "Wco"):
        delattr(cell, name)
        setattr(cell, name, nn.Parameter(torch.randn(1, 4, H, W)))
    assert_converts(cell, frame(in_channels), frame(4), frame(4))


def test_peepholes_that_are_made_at_the_first_use():
    cell = PeepholeConvLSTMCell(3, 4, 3).double()
    pdb_ext.convert(cell, strict=True)
    assert cell.Wci is None and cell.Wcf is None and cell.Wco is None
    state = cell.init_hidden(2, 4, (H, W))
    cell.Wci, cell.Wcf, cell.Wco = (torch.randn_like(cell.Wci) for _ in range(3))
    x = frame()
    torch.testing.assert_close(cell(x, *state), PeepholeConvLSTMCell.forward(cell, x, *state))


def test_a_state_that_is_not_given_is_left_to_the_cell():
    assert_converts(GatesInConvLSTMCell(3, 4), frame(), ops=0)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("return_all_layers", [False, True])
def test_stack(batch_first, return_all_layers):
    stack = StackedConvLSTM(3, [4, 6], (3, 3), batch_first, True, return_all_layers)
    assert set(assert_converts(stack, randn(2, 2, 3, H, W), ops=2).replaced) == {"", "cell_list.0", "cell_list.1"}


def test_stack_with_initial_states():
    stack = StackedConvLSTM(3, [4], (5, 5), True)
    assert_converts(stack, randn(2, 5, 3, H, W), [(frame(4), frame(4))])


@pytest.mark.parametrize("used_before", [False, True])
def test_stack_that_repeats_its_input(used_before):
    stack = RepeatedConvLSTM(3, [4, 6], 3, step=5, effective_step=[1, 4]).double()
    if used_before:
        stack(frame())
        for cell in (stack.cell0, stack.cell1):
            cell.Wci, cell.Wcf, cell.Wco = (torch.randn_like(cell.Wci) for _ in range(3))
    assert_converts(stack, frame(), ops=2)


class OtherStart(ConvLSTMCell):
    def init_hidden(self, batch_size, image_size):
        h, c = super().init_hidden(batch_size, image_size)
        return h + 0.3, c


class OtherStack(StackedConvLSTM):
    cell = OtherStart


class RectifiedStack(StackedConvLSTM):
    def forward(self, input_tensor, hidden_state=None):
        outputs, states = super().forward(input_tensor, hidden_state)
        return [torch.relu(output) for output in outputs], states


@pytest.mark.parametrize("kind", [OtherStack, RectifiedStack])
def test_a_stack_that_does_something_else_runs_its_cells_one_by_one(kind):
    report = assert_converts(kind(3, [4], (3, 3), True), randn(2, 5, 3, H, W), ops=5)
    assert report.replaced == ("cell_list.0",)
    assert report.left[""].startswith("its output differs") and "one by one" in str(report)


def test_a_model_around_it():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv3d(1, 3, 1)
            self.memory = nn.ModuleDict({"a": StackedConvLSTM(3, [4], (3, 3), True)})
            self.again = self.memory["a"]
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.encoder(x.transpose(1, 2)).transpose(1, 2)
            return self.head(self.memory["a"](x)[1][0][0] + self.again(x)[0][0][:, -1])

    assert_converts(Classifier(), randn(2, 3, 1, H, W), ops=2)


def test_two_stacks_beside_each_other():
    class BothWays(nn.Module):
        def __init__(self):
            super().__init__()
            self.forward_net = StackedConvLSTM(3, [4], (3, 3), True)
            self.reverse_net = StackedConvLSTM(3, [4], (3, 3), True)

        def forward(self, x):
            backward = self.reverse_net(x.flip(1))[0][0].flip(1)
            return torch.cat([self.forward_net(x)[0][0], backward], dim=2)

    assert_converts(BothWays(), randn(2, 3, 3, H, W), ops=2)


class OtherFormula(ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return torch.relu(h), c


class OtherInTraining(ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return (nn.functional.dropout(h, 0.9), c) if self.training else (h, c)


class Detached(ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return h, c.detach()


class Remembering(ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        self.last = input_tensor
        return super().forward(input_tensor, cur_state)


def hooked(*sizes):
    cell = ConvLSTMCell(*sizes)
    cell.conv.register_forward_hook(lambda *_: None)
    return cell


class Scaled(ConvLSTMCell):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("scale", torch.ones(1))  # one now, but not always

    def forward(self, input_tensor, cur_state):
        h, c = super().forward(input_tensor, cur_state)
        return h * self.scale if self.training else h, c


def normalised(*_):
    return TwoConvolutionsLSTMCell(3, 4, 3, layer_norm=(H, W))


def circular(*sizes):
    cell = ConvLSTMCell(*sizes)
    cell.conv.padding_mode = "circular"
    return cell


LOOKALIKES = {
    OtherFormula: "output differs", OtherInTraining: "output differs", Detached: "gradients differ",
    Remembering: "changes its attributes", hooked: "has hooks", Scaled: "unknown parameter or buffer scale",
    normalised: "unknown parameter or buffer conv_x.1", circular: "padding mode",
}  # fmt: skip


@pytest.mark.parametrize("make", LOOKALIKES)
def test_lookalikes_are_left_with_a_reason(make):
    cell = make(3, 4, (3, 3), True).eval()
    _, report = pdb_ext.convert(nn.ModuleDict({"a": cell}), return_report=True)
    assert report.replaced == () and LOOKALIKES[make] in report.left["a"]
    with pytest.raises(ValueError, match=f"no ConvLSTM was recognised.*{LOOKALIKES[make]}"):
        pdb_ext.convert(cell, strict=True)


@pytest.mark.parametrize(
    "module",
    [ConvLSTMCell(3, 4, (3, 5), True), nn.Sequential(nn.Conv2d(3, 4, 3), nn.LSTM(3, 4)), pdb_ext.PDBConvLSTM(3, 4)],
    ids=["kernel 3x5", "nothing recurrent", "ours"],
)
def test_what_is_not_known_stays(module):
    _, report = pdb_ext.convert(module, return_report=True)
    assert report.replaced == () and not any("forward" in part.__dict__ for part in module.modules())


def test_the_report_says_how_many_were_replaced_and_left():
    model = nn.ModuleDict({"stack": StackedConvLSTM(3, [4, 4], (3, 3)), "other": OtherFormula(3, 4, (3, 3), True)})
    _, report = pdb_ext.convert(model, return_report=True)
    assert len(report.replaced) == 3 and list(report.left) == ["other"]
    first, *others = str(report).split("\n")
    assert first == f"pdb_ext: 3 replaced ({', '.join(report.replaced)}), 1 left"
    assert others == [f"left as it is: other: {report.left['other']}"]
    _, nothing = pdb_ext.convert(nn.Linear(3, 4), return_report=True)
    assert str(nothing) == "pdb_ext: 0 replaced, 0 left"
