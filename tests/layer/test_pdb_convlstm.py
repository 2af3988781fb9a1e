"""`pdb_convlstm` on the CPU, where it calls `convlstm` layer by layer: autograd, fake kernels, modules."""

import pytest
import torch

from pdb_ext import PDBConvLSTM
from pdb_ext.modules import paper


def module_and_input(peephole, recompute_gates=False):
    torch.manual_seed(0)
    module = PDBConvLSTM(
        3, 4, dilations=(1, 2), merge="sum", peephole=peephole, recompute_gates=recompute_gates
    ).double()
    return module, torch.randn(2, 3, 3, 7, 9, dtype=torch.float64, requires_grad=True)


def results(module, x):
    y, states = module(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    loss = loss + states[0][1][1].sum() + states[1][0][0].sum()
    return [y, *torch.autograd.grad(loss, [x, *module.parameters()])]


@pytest.mark.parametrize("peephole, recompute_gates", [(None, False), ((3, 4, 1, 1), False), (None, True)])
def test_a_module_in_one_op_equals_its_layers(peephole, recompute_gates, monkeypatch):
    module, x = module_and_input(peephole, recompute_gates)
    expected = results(module, x)
    monkeypatch.setattr(paper, "runs_in_one_op", lambda *_: True)
    for one, other in zip(results(module, x), expected):
        torch.testing.assert_close(one, other)


def test_opcheck():
    module, x = module_and_input(None)
    parameters = []
    for branch in module.branches:
        for layer in (branch.forward_layer, branch.backward_layer):
            parameters += [layer.weight_x, layer.weight_h, layer.bias, *(x.new_empty(0).detach() for _ in range(3))]
    frames = x.detach().transpose(0, 1).contiguous().requires_grad_()
    torch.library.opcheck(torch.ops.pdb_ext.pdb_convlstm, (frames, parameters, [1, 2], False, 1))


@pytest.mark.parametrize("save, factor", [(0, 0), (1, 5), (2, 1)])
def test_the_reserve_holds_what_is_saved(save, factor):
    module, x = module_and_input(None)
    parameters = []
    for layer in module.branches[0]._layers():
        parameters += [layer.weight_x, layer.weight_h, layer.bias, *(x.new_empty(0).detach() for _ in range(3))]
    with torch.no_grad():
        output, _, reserve = torch.ops.pdb_ext.pdb_convlstm(
            x.transpose(0, 1).contiguous(), parameters, [1], False, save
        )
    assert reserve.shape == (2, factor * output[0].numel())
