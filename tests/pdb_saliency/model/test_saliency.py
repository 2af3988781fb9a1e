"""The saliency network: its sizes, its variants and ablations, and which frames each temporal module sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.models import TABLE_5, TINY, clip, tiny, trained_like
from pdb_ext import ConvLSTM
from pdb_saliency import SaliencyModel
from pdb_saliency.model.backbones.resnet import DilatedResNet50
from pdb_saliency.model.config import LITE, PAPER, RELEASED
from pdb_saliency.model.saliency import upsample_logits, upsample_saliency
from pdb_saliency.model.temporal import TEMPORAL_MODULES

# Table 4 is about the spatial part, Table 5 about the temporal module.
TABLE_4 = [{"temporal": "none", "pdc_dilations": rates} for rates in ((2,), (4,), (8,), (16,), (2, 4, 8, 16))]
TABLE_4 += [{"temporal": "none", "pdc": "aspp"}]


def test_the_paper_model_has_the_papers_sizes():
    """§3.3: 473x473 -> 60x60x2048 -> PDC 4096 -> 32 -> PDB-ConvLSTM 64 -> 1; 353x353 is the size of its timings."""
    with torch.device("meta"):
        model = SaliencyModel(PAPER)
        backbone, pdc, reduce = model.spatial
        features = backbone(torch.empty(1, 3, 473, 473))
        assert features.shape == (1, 2048, 60, 60)
        assert pdc(features).shape == (1, 4096, 60, 60)
        assert reduce(pdc(features)).shape == (1, 32, 60, 60)
        assert backbone(torch.empty(1, 3, 353, 353)).shape[2:] == (45, 45)
    assert [branch.conv.dilation for branch in pdc.branches] == [(2, 2), (4, 4), (8, 8), (16, 16)]
    assert [branch.conv.out_channels for branch in pdc.branches] == [512] * 4
    assert [branch.forward_layer.dilation for branch in model.temporal.branches] == [1, 2]
    assert all(p.dim() != 5 and "peephole" not in name for name, p in model.named_parameters())
    assert model.head.weight.shape == (1, 64, 1, 1)


def test_the_released_model_has_the_released_blobs():
    """Wx and Wh (128,32,3,3), b (128), peepholes 60x60, no merge weights, conv7 (2,64,1,1), 60 frozen BN layers."""
    with torch.device("meta"):
        model = SaliencyModel(RELEASED)
    shapes = {name: tuple(p.shape) for name, p in model.temporal.branches[1].named_parameters()}
    layer = {"weight_x": (128, 32, 3, 3), "weight_h": (128, 32, 3, 3), "bias": (128,), "peephole": (3, 1, 60, 60)}
    expected = {f"{side}_layer.{name}": shape for side in ("forward", "backward") for name, shape in layer.items()}
    assert shapes == expected
    assert model.head.weight.shape == (2, 64, 1, 1)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 60
    spec = model.input_spec
    assert (spec.height, spec.width, spec.bgr, spec.std) == (473, 473, True, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
def test_features_lie_symmetrically_on_8k_plus_1_pixels(backbone):
    """The reason for aligned corners. With symmetric kernels a mirrored image has mirrored features only if the first
    and the last feature are equally far from the border; on 8k pixels the sampling grid is lopsided."""
    model = trained_like(tiny(backbone=backbone))
    for module in model.spatial.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data += module.weight.data.flip(3)
    for width, symmetric in ((41, True), (40, False)):
        image = clip(1, 1, (17, width))[0]
        features, mirrored = model.spatial.backbone(image), model.spatial.backbone(image.flip(3)).flip(3)
        assert torch.allclose(features, mirrored, atol=1e-9 * features.abs().max().item()) == symmetric


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("size", [(33, 41), (40, 64), (9, 70)])
def test_the_paper_variant_takes_any_size(backbone, size):
    logits = tiny(backbone=backbone)(clip(2, 3, size))
    assert logits.shape == (2, 3, 1, *size) and torch.isfinite(logits).all()


def test_a_fresh_released_model_starts_as_the_authors_do():
    for layer in (module for module in tiny(variant="released").modules() if isinstance(module, ConvLSTM)):
        assert (layer.peephole == 1).all() and not layer.bias.any()
        for weight in (layer.weight_x, layer.weight_h):
            assert 0.9 * 0.0297 < weight.abs().max() <= 0.0297


def test_the_released_variant_takes_its_own_size_only():
    model = tiny(variant="released")
    assert model(clip()).shape == (1, 3, 1, 33, 41)
    with pytest.raises(ValueError, match="must be 33x41.*got 41x33"):
        model(clip(size=(41, 33)))
    # 34 rows have as many features as 33, but not at the positions that the peepholes were trained for.
    assert DilatedResNet50.feature_size(34) == DilatedResNet50.feature_size(33)
    with pytest.raises(ValueError, match="must be 33x41"):
        model(clip(size=(34, 41)))


@pytest.mark.parametrize(
    "bad", [torch.zeros(3, 33, 41), torch.zeros(1, 2, 1, 33, 41), torch.zeros(1, 2, 3, 33, 41).int()]
)
def test_a_wrong_clip_is_named(bad):
    with pytest.raises(ValueError, match=r"clip must be floating point \(N, T, 3, H, W\), got torch\.\w+ \("):
        tiny()(bad)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_whole_equals_its_parts(variant):
    """The forward pass, written out from the description of the paper (or of the released model)."""
    model = trained_like(tiny(variant=variant))
    x = clip(2, 3)
    features = torch.stack([model.spatial(frames) for frames in x])
    h = torch.cat([branch(features)[0] for branch in model.temporal.branches], dim=2)
    assert h.shape[2] == 6
    head = F.conv2d(h.flatten(0, 1), model.head.weight, model.head.bias)
    if variant == "released":
        expected = F.interpolate(head, (33, 41), mode="bilinear", align_corners=True)[:, 1:].sigmoid()
    else:
        expected = F.interpolate(head.sigmoid(), (33, 41), mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(x).sigmoid().flatten(0, 1), expected)


@pytest.mark.parametrize(
    "options",
    [*TABLE_4, *TABLE_5, *({"variant": "released", **options} for options in TABLE_5)],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_ablation_runs_and_trains(options):
    model = trained_like(tiny(input_size=(17, 25), **options)).train()
    variant = model.config.variant
    logits = model(clip(2, 2, (17, 25)))
    assert logits.shape == (2, 2, 1, 17, 25)
    logits.sigmoid().sum().backward()
    for name, parameter in model.named_parameters():
        if variant == "released" and ".bn." in name:
            assert parameter.grad is None, name
        elif variant == "released" and name.startswith("head"):
            assert parameter.grad[0].abs().max() == 0 and parameter.grad[1].abs().max() > 0
        else:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("kind", "past", "future"),
    [
        ("none", False, False),
        ("fc_lstm", True, False),
        ("convlstm", True, False),
        ("b_convlstm", True, True),
        ("db_convlstm", True, True),
        ("pdb_convlstm", True, True),
    ],
)
def test_what_a_frame_can_see(kind, past, future):
    model = trained_like(tiny(temporal=kind))
    x = clip(1, 3)
    output = model(x)
    for changed, affects in ((0, past), (2, future)):
        other = x.clone()
        other[:, changed] += 1
        assert torch.allclose(model(other)[:, 1], output[:, 1], atol=1e-12) != affects


def test_clips_of_a_batch_do_not_mix():
    model = trained_like(tiny())
    x = clip(3, 2)
    torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]))


def test_spatial_weights_move_on_to_the_temporal_model():
    """The paper's two steps: train the spatial part alone, then put a temporal module behind it."""
    first, second = tiny(seed=1, temporal="none"), tiny(seed=2)
    second.spatial.load_state_dict(first.spatial.state_dict())
    frames = clip()[0]
    torch.testing.assert_close(second.spatial(frames), first.spatial(frames))


def test_frozen_batch_norm_stays_as_it_is():
    model = trained_like(tiny(variant="released")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".bn." in name}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(clip()).sum().backward()
    optimiser.step()
    after = model.state_dict()
    assert before and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not torch.equal(after["head.weight"], tiny(variant="released").head.weight)


def test_upsampled_saliency_is_the_upsampled_sigmoid():
    logits = torch.tensor([[-600.0, -30.0, 0.0], [2.0, 30.0, 600.0]], dtype=torch.float64).view(1, 1, 2, 3)
    result = upsample_saliency(logits.requires_grad_(), (5, 7))
    expected = F.interpolate(logits.sigmoid(), (5, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(result.sigmoid(), expected, rtol=1e-13, atol=0)
    result.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite_and_keep_their_dtype(dtype):
    logits = torch.tensor([-1e4, -90.0, 90.0, 1e4], dtype=dtype).view(1, 1, 2, 2)
    result = upsample_saliency(logits, (3, 3))
    assert result.dtype == dtype and torch.isfinite(result).all()
    assert (result[..., 0, :] <= -80).any() and (result[..., 2, :] >= 80).any()


def test_corners_are_aligned():
    logits = torch.randn(1, 1, 4, 6)
    corners = upsample_logits(logits, (25, 41))[..., ::24, ::40]
    torch.testing.assert_close(corners, logits[..., ::3, ::5])
    torch.testing.assert_close(upsample_logits(logits, (25, 41))[..., ::8, ::8], logits)


def test_descriptions_distinguish_models():
    configs = [dataclasses.replace(TINY, **options) for options in TABLE_5] + [LITE, RELEASED]
    with torch.device("meta"):
        texts = [SaliencyModel(config).description for config in configs]
    assert len(set(texts)) == len(texts)
    assert texts[-1] == "ResNet-50, PDC 2/4/8/16, PDB-ConvLSTM, released variant, 473x473"


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
def test_the_decoder_predicts_at_stride_4(backbone):
    model = tiny(backbone=backbone, decoder="skip")
    features, skip = model.encode(clip(1, 2)[0])
    assert features.shape == (2, 4, 5, 6) and skip.shape[2:] == (9, 11)
    assert model.head(features, skip).shape == (2, 1, 9, 11)


@pytest.mark.parametrize("kind", [kind for kind in TEMPORAL_MODULES if kind != "none"])
def test_with_a_decoder_training_starts_from_the_spatial_part_alone(kind):
    """The residual starts at zero; even so, the temporal module learns as soon as the residual has changed."""
    alone = trained_like(tiny(decoder="skip", temporal="none"))
    model = tiny(decoder="skip", temporal=kind, seed=1)
    model.load_state_dict(alone.state_dict(), strict=False)
    x = clip()
    torch.testing.assert_close(model(x), alone(x))
    nn.init.normal_(model.residual.weight)
    model(x).square().mean().backward()
    assert all(parameter.grad.any() for name, parameter in model.temporal.named_parameters())


@pytest.mark.parametrize("options", [{}, {"decoder": "skip"}, {"variant": "released"}])
def test_encode_and_decode_are_the_model(options):
    model = trained_like(tiny(**options))
    x = clip(2, 3)
    encoded = model.encode(x.flatten(0, 1))
    torch.testing.assert_close(model.decode(encoded, (2, 3), (33, 41)), model(x))
