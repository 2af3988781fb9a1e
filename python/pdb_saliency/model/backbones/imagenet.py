"""ImageNet weights for the paper's ResNet-50."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from pdb_saliency.errors import WeightsError
from pdb_saliency.model.assemble import one_line
from pdb_saliency.model.input import InputSpec

from .resnet import DilatedResNet50

# What the models of torchvision and its relatives were trained on: RGB from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS = {"conv1": "reduce.conv", "bn1": "reduce.bn", "conv2": "conv3x3.conv", "bn2": "conv3x3.bn"}
_LAYERS |= {"conv3": "increase.conv", "bn3": "increase.bn", "downsample.0": "proj.conv", "downsample.1": "proj.bn"}
_STEM = {"conv1": "conv1_1.conv", "bn1": "conv1_1.bn", "conv2": "conv1_2.conv", "bn2": "conv1_2.bn"}
_STEM |= {"conv3": "conv1_3.conv", "bn3": "conv1_3.bn"}


def load_resnet_weights(backbone: DilatedResNet50, path: Path, spec: InputSpec) -> None:
    """Fill the backbone from a .pth file with torchvision's names and a stem of three 3x3 convolutions.

    That is the stem of the paper's base network; semantic-segmentation-pytorch publishes such a file
    (resnet50-imagenet.pth). torchvision's own ResNet-50 begins with one 7x7 convolution, which does not fit. The classifier
    ("fc.") is left out. These networks have a stage's stride on the 3x3 convolution, ours on the 1x1 before it.

    The file expects RGB in units of its own; the first layer is rewritten for input as `spec` prepares it.
    Raises WeightsError; the backbone is then unchanged.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        state = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
        assert all(isinstance(tensor, Tensor) for tensor in state.values()), "it holds more than tensors"
    except Exception as error:  # Unpickling a damaged file can raise nearly anything.
        raise WeightsError(f"{path}: not a readable weights file ({one_line(error)})") from error
    first = state.get("conv1.weight")
    if first is not None and first.shape[-1] == 7:
        raise WeightsError(
            f"{path}: begins with a 7x7 convolution (torchvision's ResNet); this network has three of 3x3"
        )
    renamed = {_our_name(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    found = {name: tensor.shape for name, tensor in renamed.items()}
    wrong = sorted(
        name for name in expected | found if expected.get(name) != found.get(name) and "num_batches" not in name
    )
    if wrong:
        had, wanted = (tuple(shapes[wrong[0]]) if wrong[0] in shapes else "nothing" for shapes in (found, expected))
        raise WeightsError(f"{path}: not the weights of this ResNet-50: {wrong[0]} is {had}, expected {wanted}")
    _rewrite_first_layer(renamed, spec)
    backbone.load_state_dict(renamed, strict=False)  # Old files have no num_batches_tracked.


def _our_name(name: str) -> str:
    block = re.fullmatch(r"layer(\d)\.(\d+)\.(downsample\.\d|\w+)\.(\w+)", name)
    if block:
        stage, number, layer, tensor = block.groups()
        return f"conv{int(stage) + 1}.{number}.{_LAYERS.get(layer, layer)}.{tensor}"
    layer, _, tensor = name.partition(".")
    return f"{_STEM.get(layer, layer)}.{tensor}"


def _rewrite_first_layer(state: dict[str, Tensor], spec: InputSpec) -> None:
    """Same result (but at the border) for y = (x - spec.mean) / spec.std as the file's for (x / 255 - mean) / std."""
    order = [2, 1, 0] if spec.bgr else [0, 1, 2]
    mean, std = (torch.tensor(values).double()[order] * 255 for values in (_MEAN, _STD))
    ours_mean, ours_std = (torch.tensor(values).double() for values in (spec.mean, spec.std))
    weight = state["conv1_1.conv.weight"].double()[:, order]
    offset = (weight * ((ours_mean - mean) / std).view(1, 3, 1, 1)).sum((1, 2, 3))
    state["conv1_1.conv.weight"] = (weight * (ours_std / std).view(1, 3, 1, 1)).float()
    state["conv1_1.bn.running_mean"] = (state["conv1_1.bn.running_mean"].double() - offset).float()
