"""Stage temporal learns what no single frame shows."""

import dataclasses

import pytest
import torch
from torch.utils.data import Dataset

from helpers.training_data import TINY
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.training.config import RunOptions, modern, paper
from pdb_saliency.training.distributed import launch
from pdb_saliency.training.trainer import Trainer

SIDE, LENGTH, STRIDE = 9, 4, 4
CONFIG = dataclasses.replace(TINY, hidden_channels=8, input_size=(SIDE * STRIDE - 3, SIDE * STRIDE - 3))


class TwoDots(Dataset):
    """Features with two equal dots, in the upper and the lower half; one moves by a pixel a frame and is the mask.

    A single frame does not show which of them it is.
    """

    def __getitem__(self, number):
        random = torch.Generator().manual_seed(number)
        moving = int(torch.randint(2, (), generator=random))
        columns = torch.randint(1, SIDE - 1, (2,), generator=random).tolist()
        step = 1 if columns[moving] < SIDE // 2 else -1
        dots = torch.zeros(2, LENGTH, SIDE, SIDE)
        for half in (0, 1):
            for time in range(LENGTH):
                column = columns[half] + step * time * (half == moving)
                dots[half, time, 2 + 4 * half, column] = 1
        features = torch.randn(LENGTH, CONFIG.reduced_channels, SIDE, SIDE, generator=random) * 0.1
        features[:, 0] += 3 * dots.sum(0)
        mask = torch.nn.functional.max_pool2d(dots[moving][:, None], 3, 1, 1)
        mask = torch.nn.functional.interpolate(mask, size=CONFIG.input_size)
        return {
            "features": (features,),
            "mask": mask,
            "valid": torch.ones(LENGTH, dtype=torch.bool),
            "name": str(number),
        }


def share_right(model, whole_clips):
    """The share of frames, after the first, in which the moving dot is more salient, in clips that were not trained on.

    whole_clips: show whole clips; else every frame as a separate clip.
    """
    right = []
    for number in range(10_000, 10_050):
        sample = TwoDots()[number]
        with torch.no_grad():
            batch = (1, LENGTH) if whole_clips else (LENGTH, 1)
            logits = model.decode(sample["features"], batch, CONFIG.input_size).reshape(LENGTH, *CONFIG.input_size)[1:]
        middle = CONFIG.input_size[0] // 2
        upper = logits[:, :middle].amax((1, 2)) > logits[:, middle:].amax((1, 2))
        right += (upper == sample["mask"][1:, 0, :middle].flatten(1).any(1)).tolist()
    return sum(right) / len(right)


@pytest.mark.slow(but=["modern"])
@pytest.mark.parametrize("preset", [paper, modern])
def test_the_temporal_part_learns_motion(tmp_path, preset):
    """If the temporal part did nothing or ignored time, half of the frames would be right by chance."""
    config = dataclasses.replace(preset("temporal"), steps=240, batch=8, length=LENGTH, size=CONFIG.input_size)
    model = SaliencyModel(CONFIG)
    config = dataclasses.replace(config, ema=min(config.ema, 0.9), warmup=min(config.warmup, 20))
    metrics = Trainer(launch("cpu"), config, model, TwoDots(), tmp_path, RunOptions(0, 0, 0, 0, 0)).train()
    model.eval()
    assert share_right(model, whole_clips=True) > 0.95
    assert share_right(model, whole_clips=False) < 0.7
    assert metrics["loss"] < 0.4  # The best that a constant can do is 0.53.
