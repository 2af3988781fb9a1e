"""Two gloo processes, started by torchrun, give the results of one process with the whole batch."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from helpers.paths import HELPERS
from helpers.train_discs import run, small_config
from pdb_saliency.errors import InputError
from pdb_saliency.training.config import RunOptions
from pdb_saliency.training.loader import Share, StepSampler

SCRIPT = HELPERS / "train_discs.py"


def torchrun(*arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    path = os.pathsep.join(place for place in sys.path if place)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, env=environment)


def losses(folder):
    """The losses of all steps, then the scores of all validations."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for name in ("train/loss", "val/max_f") for line in lines if name in line]


ENTRIES = {"batch_norm": "frozen", "steps": 6, "iou_weight": 0.5, "optimizer": "sgd", "lr": 0.01}
# Clips of stage temporal are annotated in part, so the processes have different numbers of annotated pixels.
RUNS = {
    "frozen": {"accumulate": 2},
    "new_layers": {"batch_norm": "new_layers", "ema": 0.9},
    # One sample per process, at a lower rate: statistics of so few pixels amplify rounding from step to step.
    "train": {"batch_norm": "train", "batch": 2, "lr": 0.001},
    "temporal": {"stage": "temporal", "cache": 6, "accumulate": 2},
}


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """The folder in which two processes have trained, the last runs with a sample of NaN and one that is missing."""
    folder = tmp_path_factory.mktemp("two")
    arguments = []
    for name, more in RUNS.items():
        arguments += [folder / name, "scores=1", "validate=3"]
        arguments += [f"{entry}={value}" for entry, value in (ENTRIES | more).items()] + ["--"]
    arguments += [folder / "poisoned", "poison=6", "batch_norm=frozen", "--"]
    arguments += [folder / "broken", "broken=7", "workers=1"]
    return folder, torchrun(SCRIPT, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_same_losses_and_weights(tmp_path, distributed, name):
    """If a batch is computed in parts, the run in one process divides it differently."""
    folder, process = distributed
    entries = ENTRIES | RUNS[name]
    run(
        tmp_path,
        small_config(entries.pop("stage", "spatial"), **entries),
        RunOptions(validate=3, scalars=1),
        scores=True,
    )
    assert (folder / name / "model.safetensors").exists(), process.stderr
    one, two = losses(tmp_path), losses(folder / name)
    assert len(one) == 6 + 3 and len(set(one)) == 9
    # float32 sums of some 10,000 terms in another order.
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=0)
    for file in ("model", "best"):
        ours, theirs = (load_file(path / f"{file}.safetensors") for path in (tmp_path, folder / name))
        for key in ours:
            torch.testing.assert_close(theirs[key], ours[key], rtol=1e-4, atol=1e-5)


def test_samples_of_a_loss_that_is_not_finite_are_named_once(distributed):
    """Sample 6 belongs to the second process; the loss is that of both."""
    folder, process = distributed
    assert process.returncode != 0
    (line,) = [line for line in process.stderr.splitlines() if "not finite" in line]
    assert "the loss is nan, which is not finite at step 2, with the samples disc" in line
    assert "poisoned" in line and line.count("disc") == 3
    assert not (folder / "poisoned" / "model.safetensors").exists()
    assert not list((folder / "poisoned" / "checkpoints").glob("*"))


def test_a_file_that_disappears_for_one_process_ends_all(distributed):
    """Sample 7 is made by a worker of the second process; the first one does not wait for it."""
    folder, process = distributed
    assert process.stderr.count("pdb-saliency: error: frames/7.jpg: cannot be read (gone)\n") == 1
    assert process.stderr.count("7.jpg") == 1
    assert "Connection closed" not in process.stderr and not (folder / "broken" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_before_any_file_is_looked_at(tmp_path):
    arguments = ["--stage", "spatial", "--train", "nowhere", "-o", tmp_path / "run", "--device", "cpu"]
    process = torchrun("-m", "pdb_saliency", "train", *arguments)
    reported = [line for line in process.stderr.splitlines() if line.startswith("pdb-saliency")]
    words = "a batch of 5 samples cannot be shared by 2 processes: expected --batch with a multiple of 2"
    assert reported == [f"pdb-saliency: error: {words}"] and process.returncode != 0


def test_shares_make_up_the_batch():
    shares = [Share(rank, 3, 6) for rank in range(3)]
    assert [number for step in (0, 1) for share in shares for number in share.numbers(step)] == list(range(12))
    assert list(StepSampler(shares[1], 2, 4)) == [[14, 15], [20, 21]]
    with pytest.raises(InputError, match="a batch of 5 samples cannot be shared by 3 processes"):
        Share(0, 3, 5)
