"""What users do with a converted model works as before: everything but the arithmetic is still the model's own."""

import copy
import pickle

import pytest
import torch
from torch import distributed, nn
from torch.nn.utils import parametrizations

import pdb_ext
from helpers.convlstms import (
    ConvLSTMCell,
    GatesInConvLSTMCell,
    H,
    RepeatedConvLSTM,
    StackedConvLSTM,
    TwoConvolutionsLSTMCell,
    W,
    op_at_any_size,
)


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


def converted():
    torch.manual_seed(0)
    return pdb_ext.convert(ConvLSTMCell(3, 4, (3, 3), True), strict=True)


def inputs(size=(H, W)):
    return torch.randn(2, 3, *size), (torch.randn(2, 4, *size), torch.randn(2, 4, *size))


def own(cell, *arguments, **options):
    """By the class's forward, as before."""
    return type(cell).forward(cell, *arguments, **options)


def uses_op(cell, *arguments, **options):
    with pdb_ext.record_calls() as calls:
        cell(*arguments, **options)
    return bool(calls)


def assert_as_before(cell, *arguments, **options):
    torch.testing.assert_close(cell(*arguments, **options), own(cell, *arguments, **options))


def test_methods_and_keywords():
    class Cell2017(ConvLSTMCell):
        """The size of the image is fixed, and only the batch is asked for."""

        def init_hidden(self, batch_size):
            return super().init_hidden(batch_size, (H, W))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.ModuleList([Cell2017(3, 4, (3, 3), True)])
            self.by_hand = list(self.cells)

        def forward(self, x):
            h, c = self.by_hand[0].init_hidden(batch_size=len(x))
            return self.by_hand[0](cur_state=[h, c], input_tensor=x)[0]

    model = pdb_ext.convert(Model(), strict=True)
    x, _ = inputs()
    state = model.cells[0].init_hidden(2)
    torch.testing.assert_close(model(x), own(model.cells[0], x, state)[0])
    assert uses_op(model, x)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unconvert():
    cell, arguments = converted(), inputs()
    assert uses_op(cell, *arguments)
    assert pdb_ext.unconvert(cell) is cell and not uses_op(cell, *arguments) and "forward" not in cell.__dict__


def test_converting_twice_changes_nothing():
    cell = converted()
    before = cell.forward
    _, report = pdb_ext.convert(cell, return_report=True)
    assert cell.forward is before and report.replaced == ("",)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))])
def test_copies_have_weights_of_their_own(copied):
    cell, arguments = converted(), inputs()
    other = copied(cell)
    nn.init.normal_(other.conv.weight, std=0.3)
    assert_as_before(other, *arguments)
    assert uses_op(other, *arguments) and not torch.equal(other(*arguments)[0], cell(*arguments)[0])


def test_a_replica_of_data_parallel_has_weights_of_its_own():
    cell, arguments = converted(), inputs()
    replica = cell._replicate_for_data_parallel()
    replica.conv = copy.deepcopy(cell.conv)
    nn.init.normal_(replica.conv.weight, std=0.3)
    torch.testing.assert_close(replica(*arguments), own(replica, *arguments))


def test_checkpoints_and_optimizers_of_before():
    model = ConvLSTMCell(3, 4, (3, 3), True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pdb_ext.convert(model, strict=True)
    before = copy.deepcopy(model.state_dict())
    model(*inputs())[0].sum().backward()
    optimizer.step()
    assert not torch.equal(model.conv.weight, before["conv.weight"])
    ConvLSTMCell(3, 4, (3, 3), True).load_state_dict(model.state_dict())
    model.load_state_dict(before)
    assert_as_before(model, *inputs())


def test_weights_changed_in_any_way_count():
    cell, arguments = converted(), inputs()
    cell.conv.weight.data *= 2
    assert_as_before(cell, *arguments)
    other = {"conv.weight": torch.randn_like(cell.conv.weight), "conv.bias": torch.randn_like(cell.conv.bias)}
    values = torch.func.functional_call(cell, other, arguments)
    cell.load_state_dict(other)
    torch.testing.assert_close(values, cell(*arguments))


@pytest.mark.parametrize(
    "change",
    [
        lambda cell: cell.conv.register_forward_hook(lambda module, args, output: output + 1),
        lambda cell: parametrizations.weight_norm(cell.conv),
        lambda cell: setattr(cell, "conv", nn.Sequential(cell.conv, nn.Tanh())),
    ],
    ids=["hook", "weight norm", "another module"],
)
def test_a_convolution_changed_afterwards_is_the_one_that_counts(change):
    cell, arguments = converted(), inputs()
    change(cell)
    assert_as_before(cell, *arguments)
    assert not uses_op(cell, *arguments)


def test_a_setting_changed_afterwards_counts():
    stack = pdb_ext.convert(StackedConvLSTM(3, [4, 4], (3, 3), True), strict=True)
    x = torch.randn(2, 2, 3, H, W)
    assert uses_op(stack, x) and len(stack(x)[0]) == 1
    stack.return_all_layers = True
    assert len(stack(x)[0]) == 2
    repeated = pdb_ext.convert(RepeatedConvLSTM(3, [4], 3, step=2, effective_step=[1]), strict=True)
    repeated.effective_step.append(0)
    assert len(repeated(x[:, 0])[0]) == 2
    cell = pdb_ext.convert(TwoConvolutionsLSTMCell(3, 4, 3), strict=True)
    x, state = inputs()
    cell._forget_bias = -2.0
    assert_as_before(cell, x, *state)


def test_a_stack_that_remembers_runs_as_before():
    class Remembering(StackedConvLSTM):
        def forward(self, input_tensor, hidden_state=None):
            outputs, states = super().forward(input_tensor, hidden_state)
            self.last_states = states
            return outputs, states

    stack = pdb_ext.convert(Remembering(3, [4], (3, 3), True), strict=True)
    _, states = stack(torch.randn(2, 2, 3, H, W))
    assert stack.last_states is states


def test_hooks_of_the_cell_and_of_cells_in_a_stack():
    seen = []
    stack = pdb_ext.convert(StackedConvLSTM(3, [4], (3, 3), True), strict=True)
    stack.cell_list[0].register_forward_hook(lambda *_: seen.append(1))
    stack(torch.randn(1, 3, 3, H, W))
    assert len(seen) == 3


def test_results_may_be_changed_in_place():
    cell, (x, state) = converted(), inputs()
    h, _ = cell(x.requires_grad_(), state)
    torch.relu_(h).sum().backward()
    stack = pdb_ext.convert(StackedConvLSTM(3, [4, 4], (3, 3), True, True, True), strict=True)
    outputs, _ = stack(torch.randn(1, 3, 3, H, W, requires_grad=True))
    sum(torch.relu_(output).sum() for output in outputs).backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    cell, (x, (h, c)) = converted(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = cell(x, (h, c)), own(cell, x, (h, c))
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
    cell = cell.to(dtype)
    arguments = x.to(dtype), (h.to(dtype), c.to(dtype))
    torch.testing.assert_close(cell(*arguments), own(cell, *arguments), atol=0.05, rtol=0.05)


def test_wrong_calls_fail_as_before():
    cell, (x, state) = converted(), inputs()
    for arguments in ((x[:, :2], state), (x, None), (x.double(), state), (x,)):
        with pytest.raises((RuntimeError, TypeError)) as before:
            own(cell, *arguments)
        with pytest.raises(before.type) as after:
            cell(*arguments)
        assert str(after.value) == str(before.value)


@pytest.mark.slow
def test_compile_trace_and_export():
    cell, arguments = converted(), inputs()
    expected = cell(*arguments)
    torch.testing.assert_close(torch.compile(cell, backend="aot_eager", fullgraph=True)(*arguments), expected)
    torch.testing.assert_close(torch.jit.trace(cell, arguments)(*arguments), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(cell, arguments).module()(*arguments), expected)


def test_an_exported_program_has_the_own_forward_and_others_name_the_way_out():
    cell = converted()
    assert "pdb_ext" not in str(torch.export.export(cell, inputs()).graph)
    with pytest.raises(
        TypeError, match=r"torch.jit.script cannot compile a ConvLSTMCell .* pdb_ext.unconvert\(model\)"
    ):
        torch.jit.script(nn.Sequential(cell))
    (gradient,) = torch.autograd.grad(cell(*inputs())[0].sum(), cell.conv.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="gradient of a gradient.*pdb_ext.unconvert"):
        gradient.square().sum().backward()


def test_the_report_names_cells_of_another_kind_whatever_their_class():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(7, 16, 3, padding=1)

        def forward(self, x, state):
            h, c = state
            i, f, o, g = self.conv(torch.cat([x, h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.relu(g)
            return torch.sigmoid(o) * torch.tanh(c), c

    _, report = pdb_ext.convert(nn.ModuleDict({"memory": Memory(), "other": nn.Conv2d(3, 4, 3)}), return_report=True)
    assert report.left == {"memory": "its output differs from that of a ConvLSTM"}


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_it_does_not_matter_where_convert_is_called(context):
    cell = ConvLSTMCell(3, 4, (3, 3), True)
    with context():
        pdb_ext.convert(cell, strict=True)


def test_the_meta_device_is_left():
    with torch.device("meta"):
        cell = ConvLSTMCell(3, 4, (3, 3), True)
    _, report = pdb_ext.convert(cell, return_report=True)
    assert "meta device" in report.left[""]


def test_random_weights_of_the_comparison_leave_nothing_behind():
    cell = GatesInConvLSTMCell(3, 4).requires_grad_(False)
    cell.Gates.bias.grad = torch.ones_like(cell.Gates.bias)
    versions = [parameter._version for parameter in cell.parameters()]
    pointers = [parameter.data_ptr() for parameter in cell.parameters()]
    pdb_ext.convert(cell.eval(), strict=True)
    assert [parameter._version for parameter in cell.parameters()] == versions
    assert [parameter.data_ptr() for parameter in cell.parameters()] == pointers
    assert not cell.training and not cell.Gates.training and torch.equal(cell.Gates.bias.grad, torch.ones(16))
    assert not any(parameter.requires_grad for parameter in cell.parameters())


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_wrapped_model_is_refused_and_a_converted_one_may_be_wrapped(process_group):
    wrapped = nn.parallel.DistributedDataParallel(ConvLSTMCell(3, 4, (3, 3), True))
    with pytest.raises(ValueError, match=r"wrapped in DistributedDataParallel; call pdb_ext.convert\(model\) first"):
        pdb_ext.convert(nn.Sequential(wrapped))
    cell = converted()
    nn.parallel.DistributedDataParallel(cell)(*inputs())[0].sum().backward()
    assert all(parameter.grad is not None for parameter in cell.parameters())


def test_only_modules():
    for function in (pdb_ext.convert, pdb_ext.unconvert):
        with pytest.raises(TypeError, match="must be a torch.nn.Module, got dict"):
            function({})
