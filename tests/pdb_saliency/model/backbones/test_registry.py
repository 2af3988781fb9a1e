"""A backbone is one entry of the registry: everything else takes it from there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from helpers.models import CPU, films, plain_maps
from pdb_saliency.errors import InputError, WeightsError
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.backbones import BACKBONES, BackboneKind
from pdb_saliency.model.config import LITE, ModelConfig
from pdb_saliency.model.layers import ConvBatchNorm, ResidualBlock, ResidualParts
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import load_model, save_model
from pdb_saliency.training.initial_model import starting_model


class ToyBlock(ResidualBlock):
    def __init__(self, channels):
        super().__init__()
        self.first = ConvBatchNorm(channels, channels, kernel_size=3)
        self.second = ConvBatchNorm(channels, channels, kernel_size=3, relu=False)

    def forward(self, x):
        return x + self.second(self.first(x))

    def parts(self):
        return ResidualParts(self.first, self.second)


class ToyBackbone(nn.Module):
    """Three convolutions of stride 2 and a residual block."""

    def __init__(self, width):
        super().__init__()
        self.out_channels, self.skip_channels = 2 * width, width
        self.early = nn.Sequential(ConvBatchNorm(3, width, 3, stride=2), ConvBatchNorm(width, width, 3, stride=2))
        self.late = nn.Sequential(ConvBatchNorm(width, 2 * width, 3, stride=2), ToyBlock(2 * width))

    def forward(self, x):
        return self.with_skip(x)[0]

    def with_skip(self, x):
        skip = self.early(x)
        return self.late(skip), skip

    @staticmethod
    def feature_size(size):
        return -(-size // 8)


TOY = BackboneKind("Toy", ToyBackbone, bgr=False, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
CONFIG = dataclasses.replace(
    LITE, width=4, pdc_channels=3, reduced_channels=4, hidden_channels=3, input_size=(33, 41), keep_aspect=False
)


@pytest.fixture
def config(monkeypatch):
    """The configuration of a model with the toy backbone, which the registry knows as "toy"."""
    monkeypatch.setitem(BACKBONES, "toy", TOY)
    return dataclasses.replace(CONFIG, backbone="toy")


def start(config, **options):
    options = {"start": None, "backbone_weights": None, "seed": 0, "remark": print} | options
    return starting_model("spatial", config, None, **options)


@pytest.mark.parametrize("changes", [{}, {"decoder": "none", "motion": "none"}])
def test_a_model_with_a_new_backbone_runs_and_survives_saving(config, tmp_path, changes):
    model = SaliencyModel(dataclasses.replace(config, **changes)).eval()
    assert isinstance(model.spatial.backbone, ToyBackbone) and model.description.startswith("Toy, PDC")
    spec = model.input_spec
    assert (spec.height, spec.width, spec.bgr, spec.mean, spec.std) == (33, 41, False, TOY.mean, TOY.std)
    clip = torch.randn(1, 2, 3, 33, 41)
    assert model(clip).shape == (1, 2, 1, 33, 41)
    save_model(model, tmp_path / "toy.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "toy.safetensors")(clip), model(clip), rtol=0, atol=0)


def test_a_model_file_with_an_unknown_backbone_is_refused(config, tmp_path, monkeypatch):
    save_model(SaliencyModel(config), tmp_path / "toy.safetensors")
    monkeypatch.delitem(BACKBONES, "toy")
    with pytest.raises(WeightsError, match="backbone must be one of resnet50, efficientnet_lite0, got 'toy'"):
        load_model(tmp_path / "toy.safetensors")


def test_inference_folds_and_fuses_a_new_backbone(config):
    model = SaliencyModel(config).eval()
    for module in model.spatial.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    engine = Engine(model, CPU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.network.spatial.backbone.modules())
    frames = films(3)
    ours = torch.stack([torch.from_numpy(saliency) for _, saliency in engine.maps(frames)])
    torch.testing.assert_close(ours, torch.from_numpy(plain_maps(model, frames)), rtol=1e-4, atol=1e-5)


def test_training_starts_from_a_new_backbone(config, tmp_path):
    remarks = []
    model = start(config, remark=remarks.append)
    assert isinstance(model.spatial.backbone, ToyBackbone) and model.config.temporal == "none"
    assert remarks == ["the Toy starts from random weights: it needs --batch-norm train"]
    with pytest.raises(InputError, match="--backbone-weights is for ResNet-50; not Toy"):
        start(config, backbone_weights=tmp_path / "weights.pth")


def test_training_loads_the_weights_that_a_backbone_offers(config, monkeypatch, tmp_path):
    def load(backbone, *given):
        backbone.given = given

    monkeypatch.setitem(BACKBONES, "toy", dataclasses.replace(TOY, load_installed=load))
    assert start(config).spatial.backbone.given == ()
    monkeypatch.setitem(BACKBONES, "toy", dataclasses.replace(TOY, load_file=load))
    path = tmp_path / "weights.pth"
    assert start(config, backbone_weights=path).spatial.backbone.given == (path, config.input_spec)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_offers_what_the_model_needs(name):
    with torch.device("meta"):
        backbone = BACKBONES[name].build(4)
        for height, width in ((33, 41), (40, 7)):
            features, skip = backbone.with_skip(torch.empty(2, 3, height, width))
            size = backbone.feature_size(height), backbone.feature_size(width)
            assert (
                features.shape == (2, backbone.out_channels, *size) == backbone(torch.empty(2, 3, height, width)).shape
            )
            assert skip.shape[:2] == (2, backbone.skip_channels)
    assert ModelConfig(backbone=name).input_spec.mean == BACKBONES[name].mean
