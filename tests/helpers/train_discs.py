"""A small training run that tests start, kill, and divide among processes:

    python tests/helpers/train_discs.py RUN [name=value ...] [-- RUN [name=value ...]]

Names are those of TrainConfig and RunOptions, and: pause (seconds that a sample takes), poison (number of a sample
whose pixels are NaN), broken (number of a sample that cannot be read), scores (whether there is a validation).
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import torch

from helpers.training_data import TINY, DiscSamples
from pdb_saliency.cli.console import library_on_console, report
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.training.config import RunOptions, TrainConfig, modern
from pdb_saliency.training.distributed import launch
from pdb_saliency.training.trainer import Trainer

SMALL = {"steps": 24, "batch": 4, "warmup": 2, "size": (33, 33), "precision": "32-true", "model": TINY.to_dict()}


class Slow(DiscSamples):
    pause, poison, broken = 0.0, -1, -1

    def __getitem__(self, number):
        time.sleep(self.pause)
        if number == self.broken:
            raise InputError("frames/7.jpg: cannot be read (gone)")
        sample = super().__getitem__(number)
        if number == self.poison:
            sample["clip"][:] = torch.nan
            sample["name"] = "poisoned"
        return sample


def small_config(stage: str = "spatial", **entries) -> TrainConfig:
    return dataclasses.replace(modern(stage), **(SMALL | {"length": 1 if stage == "spatial" else 3} | entries))


def run(folder: Path, config: TrainConfig, options: RunOptions, scores=False, **samples_options) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    model = SaliencyModel(TINY, temporal="none" if config.stage == "spatial" else "pdb_convlstm")
    samples = Slow(TINY.input_spec, config.length, annotated=(True,) if config.length == 1 else (True, False, True))
    vars(samples).update(samples_options)
    fabric = launch("cpu", 1, config.precision)

    def validation(candidate: SaliencyModel) -> dict:
        """Larger for larger weights: any function of the model will do."""
        assert not candidate.training
        return {"max_f": float(sum(p.detach().abs().sum() for p in candidate.parameters()))}

    return Trainer(fabric, config, model, samples, folder, options, validation if scores else None).train()


def main(*arguments: str) -> int:
    """The largest exit code of the runs."""
    if "--" in arguments:
        cut = arguments.index("--")
        return max(main(*arguments[:cut]), main(*arguments[cut + 1 :]))
    folder, *settings = arguments
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        values[name] = value if value[:1].isalpha() else float(value) if "." in value or "e" in value else int(value)
    mine = {name: values.pop(name) for name in ("pause", "poison", "broken", "scores") if name in values}
    entries = {field.name for field in dataclasses.fields(RunOptions)}
    options = RunOptions(**({"pictures": 0, "scalars": 1} | {name: values.pop(name) for name in entries & set(values)}))
    try:
        with library_on_console():
            run(Path(folder), small_config(**values), options, **mine)
    except SaliencyError as error:
        report("error", error)
        return 1
    except SystemExit as end:  # Another process reports the error.
        return end.code
    except KeyboardInterrupt:
        return 130
    return 0


def main_with_stderr(stderr: Path, *arguments: str) -> None:
    """`main` as a process of multiprocessing, which writes its messages to a file."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.exit(main(*arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
