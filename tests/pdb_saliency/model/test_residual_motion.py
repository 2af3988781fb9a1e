"""Motion of objects relative to the camera's: on textures whose motion is known, and in the model."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.models import thin_lite
from pdb_saliency.model.residual_motion import ResidualMotion, _camera_motion, _inverse
from pdb_saliency.model.saliency import SaliencyModel

CENTRE = (slice(4, -4), slice(4, -4))  # Of the halved maps; what leaves at the border has no match.


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Features (24, height, width) that are smooth from pixel to pixel, like those of a network."""
    noise = torch.randn(1, 24, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 5, 1)[0] * 5


def clip(camera: tuple[int, int], own: tuple[int, int], frames: int = 3, size: int = 49) -> torch.Tensor:
    """(frames, 24, size, size): a background that moves by `camera` pixels (x, y) per frame, and on it a square that
    moves by camera + own."""
    margin = 40
    scenery, thing = texture(size + 2 * margin, size + 2 * margin), texture(15, 15, seed=1)
    pictures = []
    for t in range(frames):
        x, y = margin - camera[0] * t, margin - camera[1] * t
        picture = scenery[:, y : y + size, x : x + size].clone()
        left, top = 17 + (camera[0] + own[0]) * t, 17 + (camera[1] + own[1]) * t
        picture[:, top : top + 15, left : left + 15] = thing
        pictures.append(picture)
    return torch.stack(pictures)


@pytest.mark.parametrize("camera", [(0, 0), (2, 0), (-3, 1)])
@pytest.mark.parametrize("own", [(2, 0), (-1, 2)])
def test_an_object_that_moves_is_found_under_any_camera_motion(camera, own):
    maps = ResidualMotion()(clip(camera, own), (1, 3))[1]
    # The square's centre in the middle frame, on the halved map.
    x, y = (int(17 + 7 + camera[i] + own[i]) // 2 for i in range(2))
    thing = maps[:, y - 1 : y + 2, x - 1 : x + 2].mean((1, 2))
    torch.testing.assert_close(thing[:4], torch.tensor([*own, -own[0], -own[1]]).float(), atol=0.35, rtol=0)
    assert thing[4:6].min() > 0.9 > 0.3 > maps[4:6, 14:-3, 3:6].max()  # The background on the left.
    assert thing[6:].min() > 0.5


def test_camera_motion_alone_is_no_motion():
    maps = ResidualMotion()(clip((3, -2), (0, 0)), (1, 3))
    assert maps[1, :6][(slice(None), *CENTRE)].abs().max() < 0.1


def test_time_backwards_exchanges_the_two_directions():
    frames = clip((1, 1), (2, -1))
    forwards, backwards = (ResidualMotion()(each, (1, 3)) for each in (frames, frames.flip(0)))
    order = [2, 3, 0, 1, 5, 4, 7, 6]
    torch.testing.assert_close(forwards, backwards.flip(0)[:, order], atol=1e-4, rtol=1e-4)


def test_the_ends_of_a_clip_reverse_the_motion_that_they_have():
    maps = ResidualMotion()(clip((0, 0), (2, 1)), (1, 3))
    torch.testing.assert_close(maps[0, 2:4], -maps[0, :2])
    torch.testing.assert_close(maps[-1, :2], -maps[-1, 2:4])


def test_clips_of_a_batch_do_not_see_each_other():
    first, second = clip((0, 0), (2, 0)), clip((2, 2), (-1, 1))
    motion = ResidualMotion()
    together = motion(torch.cat([first, second]), (2, 3))
    torch.testing.assert_close(
        together, torch.cat([motion(first, (1, 3)), motion(second, (1, 3))]), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("size", [(9, 14), (1, 1), (12, 5)])
def test_sizes_are_those_of_strided_layers(size):
    for frames in (1, 2):
        maps = ResidualMotion()(torch.randn(frames, 24, *size), (1, frames))
        assert maps.shape == (frames, 8, -(-size[0] // 2), -(-size[1] // 2)) and maps.isfinite().all()


def test_a_single_frame_and_a_repeated_one_do_not_move():
    frame = texture(21, 21)[None]
    assert not ResidualMotion()(frame, (1, 1)).any()
    assert ResidualMotion()(frame.repeat(3, 1, 1, 1), (1, 3))[:, :6].abs().max() < 0.05


def test_a_featureless_picture_is_not_sure_of_anything():
    maps = ResidualMotion()(torch.zeros(2, 24, 16, 16), (1, 2))
    assert maps.isfinite().all() and maps[:, 6:].max() < 0.2


def test_the_dtype_is_that_of_the_features():
    frames = clip((1, 0), (2, 0))
    half = ResidualMotion()(frames.bfloat16(), (1, 3))
    assert half.dtype == torch.bfloat16
    exact = ResidualMotion()(frames.bfloat16().float(), (1, 3))
    torch.testing.assert_close(half.float(), exact, atol=0.01, rtol=2**-8)


def test_the_camera_motion_is_the_affine_one_that_most_pixels_have():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 30), indexing="ij")
    affine = torch.stack([1 + 0.5 * x - y, 0.3 * x + 0.2 * y - 2])[None]
    motion = affine.clone()
    motion[:, :, 5:12, 8:20] += 3
    fitted = _camera_motion(motion, torch.ones(1, 1, 20, 30))
    assert (fitted - affine).abs().max() < 0.1


def test_the_inverse_is_that_of_lapack():
    factor = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = factor @ factor.transpose(1, 2) + 3 * torch.eye(3, dtype=torch.float64)
    ridge = matrix.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1) * 1e-4 + 1e-6
    torch.testing.assert_close(_inverse(matrix), torch.linalg.inv(matrix + ridge * torch.eye(3, dtype=torch.float64)))


def test_causal_motion_is_that_of_the_last_frame_of_a_clip():
    frames, motion = clip((1, 0), (2, -1), frames=4), ResidualMotion()
    together = motion.causal(frames, None)
    assert not together[0].any()
    for t in range(1, 4):
        torch.testing.assert_close(together[t], motion(frames[: t + 1], (1, t + 1))[t], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(motion.causal(frames[2:], frames[1:2]), together[2:], atol=1e-4, rtol=1e-4)


# In the model


def model_that_moves() -> SaliencyModel:
    model = thin_lite()
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


def test_no_gradients_reach_the_backbone_through_motion():
    model, clip = model_that_moves(), moving_clip()
    features, skip = (part.detach().requires_grad_() for part in model.encode(clip[0]))
    motion = model.with_motion((features, skip), (1, 3))[2]
    assert not motion.requires_grad


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
    assert (alone - together[1]).abs().max() > 1e-3  # Without the previous frame there is no motion.
