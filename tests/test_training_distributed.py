"""Two gloo processes, started by torchrun, are one process with the joint batch."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pdb_saliency.errors import InputError
from pdb_saliency.training.batches import Share, StepSampler
from pdb_saliency.training.loop import RunOptions
from safetensors.torch import load_file
from train_discs import run, small_config

SCRIPT = Path(__file__).with_name("train_discs.py")


def torchrun(*arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", SCRIPT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def losses(folder):
    return [json.loads(line)["train/loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


ENTRIES = {"batch_norm": "frozen", "steps": 6, "accumulate": 2, "iou_weight": 0.5, "optimizer": "sgd", "lr": 0.01}
STAGES = {"spatial": {}, "temporal": {"cache": 6}}


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """The folder in which two processes have trained: both stages, then with a sample whose pixels are not numbers."""
    folder = tmp_path_factory.mktemp("two")
    arguments = []
    for stage, more in STAGES.items():
        arguments += [
            folder / stage,
            f"stage={stage}",
            *(f"{name}={value}" for name, value in (ENTRIES | more).items()),
            "--",
        ]
    process = torchrun(*arguments, folder / "poisoned", "poison=6", "batch_norm=frozen")
    return folder, process


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_losses_and_weights(tmp_path, distributed, stage):
    """Clips of stage temporal are partly annotated, so the processes' shares of the annotated pixels differ. The joint run
    computes each batch in two parts, the distributed one in as many a process."""
    folder, process = distributed
    run(tmp_path, small_config(stage, **ENTRIES, **STAGES[stage]), RunOptions(scalars=1, pictures=0))
    assert (folder / stage / "model.safetensors").exists(), process.stderr
    one, two = losses(tmp_path), losses(folder / stage)
    assert len(one) == 6 and len(set(one)) == 6
    # float32 sums of some 10,000 terms in another order.
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=0)
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path, folder / stage))
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-6)


def test_samples_of_a_loss_that_is_not_finite_are_named_by_every_process(distributed):
    """Sample 6 is the second process's, and the loss is everybody's."""
    folder, process = distributed
    assert process.returncode != 0
    # The two processes write at once, so their lines may run into each other.
    lines = re.findall(r"the loss is nan.*? not finite at step 2.*?nothing was saved after it", process.stderr, re.DOTALL)
    assert lines and all("poisoned" in line and line.count("disc") == 3 for line in lines)
    assert not (folder / "poisoned" / "model.safetensors").exists()
    assert not (folder / "poisoned" / "checkpoints").exists()


def test_shares_make_up_the_batch():
    shares = [Share(rank, 3, 6) for rank in range(3)]
    assert [number for step in (0, 1) for share in shares for number in share.numbers(step)] == list(range(12))
    assert list(StepSampler(shares[1], 2, 4)) == [[14, 15], [20, 21]]
    with pytest.raises(InputError, match="a batch of 5 samples cannot be shared by 3 processes"):
        Share(0, 3, 5)
