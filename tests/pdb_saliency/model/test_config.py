"""The configuration of a model: what it refuses, and how it is stored."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pdb_saliency import ModelConfig, options
from pdb_saliency.model.config import LITE, NETWORKS, PAPER
from pdb_saliency.model.temporal import TEMPORAL_MODULES


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "other"},
        {"backbone": "vgg"},
        {"temporal": "gru"},
        {"pdc": "sum"},
        {"refine": "crf"},
        {"keep_aspect": 2},
        {"keep_aspect": True, "variant": "released"},
        {"width": 0},
        {"hidden_channels": 1.5},
        {"pdc_channels": 10**9},
        {"pdc_dilations": ()},
        {"temporal_dilations": (1, -2)},
        {"input_size": (473,)},
    ],
    ids=str,
)
def test_a_wrong_configuration_names_the_field(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must .*got"):
        ModelConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [(1.0,), (0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf")), ("1", 0.0), [1.0, 0.0], (True, 0.0)]
)
def test_a_wrong_calibration_is_refused(wrong):
    with pytest.raises(ValueError, match="calibration must be"):
        ModelConfig(calibration=wrong)


def test_motion_needs_the_skip_connection():
    with pytest.raises(ValueError, match="motion 'residual' is found in the skip connection"):
        dataclasses.replace(PAPER, motion="residual")


def test_configurations_survive_json():
    for config in NETWORKS.values():
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="must have the entries"):
        ModelConfig.from_dict({"variant": "paper"})


def test_models_from_before_there_was_motion_have_none():
    values = LITE.to_dict()
    del values["motion"]
    assert ModelConfig.from_dict(values) == dataclasses.replace(LITE, motion="none")


def test_every_temporal_kind_has_a_module():
    assert tuple(TEMPORAL_MODULES) == ("none", *options.TEMPORAL_KINDS)


def test_every_named_network_has_a_configuration():
    assert tuple(NETWORKS) == options.NETWORKS
