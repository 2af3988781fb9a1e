"""Models sharded over processes: one that is wrapped is refused, one that is converted may be wrapped."""

import copy

import pytest
import torch
from torch import distributed, nn

import pdb_ext
from helpers.convlstms import (
    ConvLSTMCell,
    H,
    W,
    op_at_any_size,
)


@pytest.fixture(autouse=True)
def op_for_small_calls():
    with op_at_any_size():
        yield


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded_by_a_wrapper(cell):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    return fsdp.FullyShardedDataParallel(cell, device_id=torch.device("cpu"))


def sharded_in_place(cell):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard there")
    fsdp.fully_shard(cell, mesh=distributed.device_mesh.init_device_mesh("cpu", (1,)))
    return cell


SHARDED = pytest.mark.parametrize("shard", [sharded_by_a_wrapper, sharded_in_place])


@SHARDED
@pytest.mark.filterwarnings("ignore::UserWarning")  # FSDP: that one process has nothing to share
def test_a_sharded_model_is_refused_and_stays_as_it_is(process_group, shard):
    wrapped = nn.Sequential(shard(ConvLSTMCell(3, 4, (3, 3), True)))
    with pytest.raises(ValueError, match=rf"0 is wrapped in {type(wrapped[0]).__name__}\b.*first.*wrap"):
        pdb_ext.convert(wrapped)
    assert not any("forward" in part.__dict__ for part in wrapped.modules())


class Caller(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x, state):
        return self.cell(x, state)


@SHARDED
@pytest.mark.parametrize("around", [False, True], ids=["the cell", "a model around it"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_converted_model_may_be_sharded(process_group, shard, around):
    cell, (h, c), x = ConvLSTMCell(3, 4, (3, 3), True), torch.randn(2, 2, 4, H, W), torch.randn(2, 3, H, W)
    converted = pdb_ext.convert(copy.deepcopy(cell), strict=True)

    def trained(cell):
        model = shard(Caller(cell) if around else cell)
        outputs = model(x, (h, c))
        outputs[0].square().sum().backward()
        grads = [parameter.grad for parameter in model.parameters()]
        return outputs, [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]

    try:
        expected = trained(cell)
    except RuntimeError as error:
        pytest.skip(f"this PyTorch cannot train so on a CPU: {error}")
    with pdb_ext.record_calls() as calls:
        torch.testing.assert_close(trained(converted), expected)
    if around:  # what is sharded itself may have another class, and then runs its own forward
        assert len(calls) == 2


@pytest.mark.parametrize("name", ["FullyShardedDataParallel", "FSDPSequential"])
def test_wrappers_of_these_names_are_refused_wherever_they_come_from(name):
    wrapper = type(name, (nn.Sequential,), {})(ConvLSTMCell(3, 4, (3, 3), True))
    for model in (wrapper, nn.ModuleDict({"inner": wrapper})):
        with pytest.raises(ValueError, match=f"is wrapped in {name}"):
            pdb_ext.convert(model)
