"""ResNet-50: its sizes, and ImageNet weights that expect another input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pdb_saliency.errors import WeightsError
from pdb_saliency.model.backbones import resnet
from pdb_saliency.model.backbones.resnet import DilatedResNet50, load_resnet_weights
from pdb_saliency.model.config import ModelConfig


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 10, 48, 89, 90, 153, 321, 353, 473])
def test_resnet_feature_size_is_what_the_network_returns(size):
    with torch.device("meta"):
        features = DilatedResNet50(width=1)(torch.empty(1, 3, size, 89))
    assert features.shape == (1, 32, DilatedResNet50.feature_size(size), 12)


def deep_stem_weights(model: DilatedResNet50) -> dict:
    """The backbone's weights under the names of segmentation toolboxes."""
    layers = {ours: theirs for theirs, ours in resnet._LAYERS.items()}
    stem = {ours: theirs for theirs, ours in resnet._STEM.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        layer, tensor_name = name.rsplit(".", 1)
        if layer in stem:
            state[f"{stem[layer]}.{tensor_name}"] = tensor
        else:
            stage, number, rest = layer.split(".", 2)
            state[f"layer{int(stage[4:]) - 1}.{number}.{layers[rest]}.{tensor_name}"] = tensor
    return state


def test_resnet_weights_expect_their_own_colours(tmp_path):
    """A network that gets RGB as its weights were trained, and ours that gets BGR minus the mean, have the same
    features, except where the stem's padding reaches."""
    theirs, ours = DilatedResNet50(width=2).eval(), DilatedResNet50(width=2).eval()
    for child in theirs.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.running_mean, -0.3, 0.3)
            nn.init.uniform_(child.weight, 0.5, 1.0)
    torch.save(deep_stem_weights(theirs) | {"fc.weight": torch.zeros(1000, 64)}, tmp_path / "w.pth")
    spec = ModelConfig().input_spec
    load_resnet_weights(ours, tmp_path / "w.pth", spec)
    picture = torch.randint(0, 256, (1, 3, 33, 33)).float()  # RGB
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (resnet._MEAN, resnet._STD))
    as_trained = theirs.conv1_1((picture / 255 - mean) / std)
    as_here = ours.conv1_1(picture.flip(1) - torch.tensor(spec.mean).view(3, 1, 1))
    torch.testing.assert_close(as_here[..., 1:-1, 1:-1], as_trained[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.conv5[2].conv3x3.conv.weight, theirs.conv5[2].conv3x3.conv.weight)


def test_other_resnet_weights_are_refused(tmp_path):
    model = DilatedResNet50(width=2)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    state = deep_stem_weights(model)
    cases = {
        "begins with a 7x7": state | {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        "conv2.0.reduce.conv.weight is .3, 4, 1, 1., expected .2, 4, 1, 1.": state
        | {"layer1.0.conv1.weight": torch.zeros(3, 4, 1, 1)},
        "more than tensors": {"epoch": 3},
    }
    for words, stored in cases.items():
        torch.save(stored, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=words):
            load_resnet_weights(model, tmp_path / "w.pth", ModelConfig().input_spec)
    (tmp_path / "w.pth").write_bytes(b"PK\3\4 cut")
    with pytest.raises(WeightsError, match="not a readable weights file"):
        load_resnet_weights(model, tmp_path / "w.pth", ModelConfig().input_spec)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values()))
