"""The model that comes with the package."""

import dataclasses
from pathlib import Path

import torch

import pdb_saliency
from pdb_saliency import load_model
from pdb_saliency.demo.film import MeadowFilm
from pdb_saliency.inference.engine import saliency_maps
from pdb_saliency.model.config import LITE
from pdb_saliency.video.frame import Frame


def test_the_shipped_model_is_the_default_small_and_trained():
    model, named = load_model(), load_model("lite")
    assert dataclasses.replace(model.config, calibration=LITE.calibration) == LITE
    assert model.untrained is None and not model.training
    assert all(torch.equal(tensor, named.state_dict()[name]) for name, tensor in model.state_dict().items())
    folder = Path(pdb_saliency.__file__).parent / "shipped"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6 and (folder / "MODEL_CARD.md").exists()


def test_the_shipped_model_finds_the_ball_of_the_demo():
    """Its IoU is 0.96; an untrained model has less than 0.1."""
    film = MeadowFilm()
    frames, masks = zip(*(film.frame(index) for index in range(10, 15)))
    maps = saliency_maps([Frame(str(i), frame) for i, frame in enumerate(frames)], load_model(), torch.device("cpu"))
    for (_, saliency), mask in zip(maps, masks):
        found, true = saliency >= 0.5, mask > 0
        assert (found & true).sum() > 0.8 * (found | true).sum()
