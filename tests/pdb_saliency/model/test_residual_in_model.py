"""The option motion="residual" of the model, and what training and model files make of it."""

import dataclasses

import pytest
import torch
from torch import nn

from pdb_saliency.errors import InputError
from pdb_saliency.model.config import LITE, PAPER, ModelConfig
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import save_model
from pdb_saliency.training.initial_model import starting_model

TINY = dataclasses.replace(LITE, input_size=(65, 65), pdc_channels=4, reduced_channels=4, hidden_channels=4)
OPTIONS = {"backbone_weights": None, "seed": 0, "remark": print}


def model_that_moves() -> SaliencyModel:
    torch.manual_seed(0)
    model = SaliencyModel(TINY).eval()
    nn.init.normal_(model.residual.weight)
    return model


def moving_clip(frames: int = 3) -> torch.Tensor:
    """(1, frames, 3, 65, 65): a textured square that moves over a texture at rest."""
    generator = torch.Generator().manual_seed(0)
    scenery, thing = torch.randn(3, 65, 65, generator=generator), torch.randn(3, 25, 25, generator=generator)
    clip = scenery.repeat(frames, 1, 1, 1)
    for t in range(frames):
        clip[t, :, 20:45, 8 + 8 * t : 33 + 8 * t] = thing
    return clip[None]


def test_motion_is_seen_by_the_temporal_module_and_by_nothing_else():
    model = model_that_moves()
    encoded = model.encode(moving_clip()[0])
    features, skip, motion = model.with_motion(encoded, (1, 3))
    assert motion.shape == (3, 8, *features.shape[2:]) and motion[:, 4].max() > 0.5
    still = model.decode((features, skip, torch.zeros_like(motion)), (1, 3), (65, 65))
    moving = model.decode((features, skip, motion), (1, 3), (65, 65))
    assert (still - moving).abs().max() > 1e-3
    nn.init.zeros_(model.residual.weight)
    torch.testing.assert_close(
        model.decode((features, skip, motion), (1, 3), (65, 65)), model.decode(encoded, (1, 3), (65, 65))
    )


def test_motion_given_ahead_is_the_motion_found():
    model, clip = model_that_moves(), moving_clip()
    ahead = model.with_motion(model.encode(clip[0]), (1, 3))
    assert model.with_motion(ahead, (1, 3)) is ahead
    torch.testing.assert_close(model.decode(ahead, (1, 3), (65, 65)), model(clip))


def test_motion_is_no_way_for_gradients_into_the_backbone():
    model, clip = model_that_moves(), moving_clip()
    features, skip = (part.detach().requires_grad_() for part in model.encode(clip[0]))
    motion = model.with_motion((features, skip), (1, 3))[2]
    assert not motion.requires_grad


def test_motion_needs_the_skip_connection():
    with pytest.raises(ValueError, match="motion 'residual' is found in the skip connection"):
        dataclasses.replace(PAPER, motion="residual")


def test_models_from_before_there_was_motion_have_none():
    values = TINY.to_dict()
    del values["motion"]
    assert ModelConfig.from_dict(values) == dataclasses.replace(TINY, motion="none")


def test_training_adds_motion_to_a_spatial_part_that_never_saw_any(tmp_path):
    file = tmp_path / "spatial.safetensors"
    alone = SaliencyModel(dataclasses.replace(TINY, temporal="none", motion="none")).eval()
    alone.untrained = None
    save_model(alone, file)
    model = starting_model("temporal", None, None, "residual", start=str(file), **OPTIONS).eval()
    assert model.config == TINY
    torch.testing.assert_close(model(moving_clip()), alone(moving_clip()))
    with pytest.raises(InputError, match="stage spatial has no temporal module for motion"):
        starting_model("spatial", None, None, "residual", start=str(file), **OPTIONS)


def test_training_refuses_motion_for_a_model_without_a_decoder(tmp_path):
    file = tmp_path / "paper.safetensors"
    model = SaliencyModel(PAPER, width=4, pdc_channels=4, input_size=(33, 33))
    model.untrained = None
    save_model(model, file)
    with pytest.raises(InputError, match="--motion residual: motion 'residual' is found in the skip connection"):
        starting_model("temporal", None, None, "residual", start=str(file), **OPTIONS)


def test_causal_steps_carry_the_frame_before_for_its_motion():
    model, frames = model_that_moves(), moving_clip(4)[0]
    with torch.no_grad():
        encoded = model.encode(frames)
        together, _ = model.step(encoded, None, (65, 65))
        state, maps = None, []
        for t in range(4):
            one, state = model.step(tuple(part[t : t + 1] for part in encoded), state, (65, 65))
            maps.append(one)
        torch.testing.assert_close(torch.cat(maps), together, atol=1e-4, rtol=1e-4)
        alone, _ = model.step(tuple(part[1:2] for part in encoded), None, (65, 65))
    assert (alone - together[1]).abs().max() > 1e-3  # Without the frame before there is no motion.
