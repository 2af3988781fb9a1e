"""Tiny saliency models, and the maps of the engine beside those of a plain loop."""

import dataclasses

import numpy as np
import torch
from torch import nn

from helpers.problems import rms
from pdb_saliency import ModelConfig, SaliencyModel
from pdb_saliency.inference.clips import clips
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.config import LITE
from pdb_saliency.model.temporal import TEMPORAL_MODULES
from pdb_saliency.options import EngineOptions
from pdb_saliency.video.frame import Frame

TINY = ModelConfig(width=2, pdc_channels=3, reduced_channels=4, hidden_channels=3, input_size=(33, 41))


TABLE_5 = [{"temporal": kind} for kind in TEMPORAL_MODULES]


def tiny(seed=0, **options) -> SaliencyModel:
    torch.manual_seed(seed)
    return SaliencyModel(TINY, **options).double().eval()


def thin_lite() -> SaliencyModel:
    """The light network with few channels, at 65 x 65 pixels."""
    torch.manual_seed(0)
    config = dataclasses.replace(LITE, input_size=(65, 65), pdc_channels=4, reduced_channels=4, hidden_channels=4)
    return SaliencyModel(config).eval()


def clip(batch=1, frames=3, size=(33, 41), seed=0) -> torch.Tensor:
    return torch.randn(batch, frames, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def trained_like(model: SaliencyModel) -> SaliencyModel:
    """Statistics fitted to data, and biases and peepholes that are neither zero nor one, as in a trained model.

    Positive biases keep the few channels of the tiny model from dying behind their ReLUs.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or name.endswith("peephole"):
            nn.init.normal_(parameter, 1 if name.endswith("bn.bias") else 0.5, 0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
            module.train()
    with torch.no_grad():
        model.spatial(clip(1, 4, model.config.input_size, seed=1)[0])
    return model.eval()


CPU = torch.device("cpu")


def films(count, seed=0, size=(24, 30)):
    generator = np.random.default_rng(seed)
    return [Frame(str(i), generator.integers(0, 256, (*size, 3), np.uint8)) for i in range(count)]


def plain_maps(model, frames, length=5):
    """The plain loop over clips, in the model's own precision."""
    results = []
    for group in clips(frames, length):
        spec = model.input_spec.fitted(*frames[0].image.shape[:2])
        batch = spec.prepare([frame.image for frame in group.frames]).unsqueeze(0)
        with torch.no_grad():
            saliency = model(batch.to(next(model.parameters()).dtype)).sigmoid()[0, :, 0].float().numpy()
        results += [model.output_spec(small, f.image) for f, small in zip(group.frames[: group.kept], saliency)]
    return np.stack(results)


def engine_maps(model, frames, **options):
    return np.stack([saliency for _, saliency in Engine(model, CPU, EngineOptions(**options)).maps(frames)])


def assert_as_good(ours, plain, exact):
    """Our error is at most twice that of the plain network in the same precision, plus two roundings of the result."""
    error, allowed = rms(torch.tensor(ours - exact)), rms(torch.tensor(plain - exact))
    assert error <= 2 * allowed + 2 * np.finfo(np.float32).eps, (error, allowed)
