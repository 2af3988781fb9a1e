"""Batch normalisation in several processes normalises by the statistics of the whole batch."""

import multiprocessing

import pytest
import torch
from torch import nn

from helpers.training_data import TINY, half_of_a_batch, two_steps
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.training.distributed import SharedBatchNorm2d, share_statistics

PROCESSES = multiprocessing.get_context("forkserver")


@pytest.mark.slow
def test_two_halves_are_one_batch(tmp_path):
    """Values, running statistics and all gradients, in float64; the trainer sums the gradients of the weights."""
    x, cotangent = torch.randn(6, 3, 5, 4, dtype=torch.float64) * 3 + 10, torch.randn(6, 3, 5, 4, dtype=torch.float64)
    results = PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=half_of_a_batch, args=(r, tmp_path / "store", x, cotangent, results)) for r in (0, 1)
    ]
    for process in processes:
        process.start()
    parts = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3).double())
    (output, gradient, mean, variance, evaluated), weights = two_steps(model, x, cotangent)
    for index, joint in ((0, output), (1, gradient), (4, evaluated)):
        torch.testing.assert_close(torch.tensor(parts[0][0][index] + parts[1][0][index]), torch.tensor(joint))
    for index, joint in ((2, mean), (3, variance)):
        for rank in (0, 1):
            torch.testing.assert_close(torch.tensor(parts[rank][0][index]), torch.tensor(joint))
    for index, joint in enumerate(weights):
        torch.testing.assert_close(
            torch.tensor(parts[0][1][index]) + torch.tensor(parts[1][1][index]), torch.tensor(joint)
        )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_layers_that_train_share_their_statistics(device):
    """On a GPU they are PyTorch's own, whose forward is not run here."""
    model = SaliencyModel(TINY)
    before = dict(model.state_dict(keep_vars=True))
    model.spatial.backbone.eval()
    share_statistics(model, torch.device(device))
    shared = {name for name, layer in model.named_modules() if isinstance(layer, (SharedBatchNorm2d, nn.SyncBatchNorm))}
    trained = {name for name, layer in model.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    assert shared == {name for name in trained if not name.startswith("spatial.backbone.")} and shared
    after = model.state_dict(keep_vars=True)
    assert before.keys() == after.keys() and all(after[name] is tensor for name, tensor in before.items())
