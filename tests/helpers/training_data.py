"""Clips for tests of training: a bright disc on a dark, noisy background, moving by a pixel or two a frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.model.config import ModelConfig
from pdb_saliency.training.distributed import SharedBatchNorm2d, share_statistics

# About 20 thousand weights, 40 ms a step.
TINY = ModelConfig(
    width=2, pdc_dilations=(1, 2), pdc_channels=4, reduced_channels=4, hidden_channels=4, temporal_dilations=(1,),
    input_size=(33, 33),
)  # fmt: skip


class DiscClips:
    """A ClipSource. annotated: for each frame in turn, whether it has a mask."""

    def __init__(self, size: int = 48, annotated: tuple[bool, ...] = (True,)):
        self.size, self.annotated = size, annotated

    def clip(self, rng: np.random.Generator, length: int) -> TrainingClip:
        radius = rng.uniform(0.15, 0.3) * self.size
        centre, speed = rng.uniform(0.3, 0.7, 2) * self.size, rng.uniform(-2, 2, 2)
        ys, xs = np.mgrid[: self.size, : self.size]
        frames, masks = [], []
        for t in range(length):
            y, x = centre + t * speed
            inside = (ys - y) ** 2 + (xs - x) ** 2 < radius**2
            frame = rng.integers(0, 80, (self.size, self.size, 3)) + 150 * inside[..., None]
            frames.append(frame.astype(np.uint8))
            masks.append(np.uint8(255) * inside if self.annotated[t % len(self.annotated)] else None)
        return TrainingClip(f"disc {int(rng.integers(1 << 30))}", frames, masks)


class DiscSamples(Dataset):
    """What SampleStream makes of DiscClips, without augmentation: [number] is a function of the seed and the number."""

    def __init__(self, spec, length: int = 1, seed: int = 0, annotated: tuple[bool, ...] = (True,)):
        self.spec, self.length, self.seed = spec, length, seed
        self.source = DiscClips(spec.height, annotated)

    def __getitem__(self, number: int) -> dict:
        import torch

        clip = self.source.clip(np.random.default_rng([self.seed, number]), self.length)
        masks = [np.zeros_like(clip.frames[0][..., 0]) if mask is None else mask for mask in clip.masks]
        return {
            "clip": self.spec.prepare(clip.frames),
            "mask": torch.from_numpy(np.stack(masks)[:, None] / np.float32(255)),
            "valid": torch.tensor([mask is not None for mask in clip.masks]),
            "name": clip.name,
        }


def write_discs(folder: Path) -> None:
    """Data sets as files: `folder`/stills with six discs on noise, `folder`/video with a sequence of seven frames."""
    random = np.random.default_rng(0)
    for number in range(6):
        _write(folder / "stills", ("images", "masks"), str(number), random.integers((25, 25), (55, 35)), random)
    for number in range(7):
        centre, name = (25 + 4 * number, 30), f"{number:05d}"
        _write(folder / "video", ("JPEGImages/disc", "Annotations/disc"), name, centre, random)


def _write(
    folder: Path, places: tuple[str, str], name: str, centre: tuple[int, int], random: np.random.Generator
) -> None:
    mask = cv2.circle(np.zeros((60, 80), np.uint8), tuple(map(int, centre)), 12, 255, -1)
    image = np.where(mask[..., None] > 0, (40, 160, 250), random.integers(0, 90, (60, 80, 3))).astype(np.uint8)
    for place, picture in zip(places, (image, mask)):
        (folder / place).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / place / f"{name}.png"), picture)


# Batch normalisation in several processes: functions of a test's own module cannot be found by a new process.


def half_of_a_batch(rank, port, x, cotangent, results):
    """What one of two processes computes from its half of the batch."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3).double())
    share_statistics(model, torch.device("cpu"))
    assert type(model[0]) is SharedBatchNorm2d
    results.put((rank, two_steps(model, x.chunk(2)[rank], cotangent.chunk(2)[rank])))
    torch.distributed.destroy_process_group()


def two_steps(model, x, cotangent):
    """Outputs and gradients of two steps, statistics, output in eval mode; as lists, since tensors share memory."""
    torch.manual_seed(0)
    nn.init.uniform_(model[0].weight, 0.5, 2)
    x = x.clone().requires_grad_()
    for _ in range(2):
        output = model(x)
        (output * cotangent).sum().backward()
    values = [output, x.grad, model[0].running_mean, model[0].running_var, model.eval()(x)]
    return [value.tolist() for value in values], [model[0].weight.grad.tolist(), model[0].bias.grad.tolist()]
