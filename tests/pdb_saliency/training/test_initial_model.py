"""The weights that a stage starts with: of the stage before, or of ImageNet."""

import dataclasses

import pytest
import torch
from torch import nn

from helpers.training_data import TINY
from pdb_saliency.errors import InputError, WeightsError
from pdb_saliency.model.backbones import imagenet as backbone_module
from pdb_saliency.model.backbones.imagenet import load_resnet_weights
from pdb_saliency.model.backbones.resnet import DilatedResNet50
from pdb_saliency.model.config import LITE, ModelConfig
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.model.weights import save_model
from pdb_saliency.training.config import modern
from pdb_saliency.training.initial_model import model_file, starting_model


def begin(stage, config, start=None, temporal=None, weights=None, remarks=None):
    remark = (remarks if remarks is not None else []).append
    return starting_model(stage, config, temporal, start=start, backbone_weights=weights, seed=0, remark=remark)


LITE_TINY = dataclasses.replace(
    LITE, pdc_channels=4, reduced_channels=4, hidden_channels=4, temporal_dilations=(1,), input_size=(65, 65)
)


@pytest.mark.parametrize("config", [TINY, LITE_TINY])
def test_a_stage_goes_on_from_the_one_before(tmp_path, config):
    first = SaliencyModel(config, temporal="none")
    first.untrained = None
    save_model(first, tmp_path / "model.safetensors")
    second = begin("temporal", None, start=str(tmp_path))
    assert second.config == dataclasses.replace(config, temporal="pdb_convlstm") and second.untrained is None
    for name, tensor in first.spatial.state_dict().items():
        assert torch.equal(second.spatial.state_dict()[name], tensor)
    clip = torch.randn(1, 2, 3, 65, 65)
    # With the decoder the temporal part starts at zero: stage temporal begins where stage spatial ended.
    same = torch.equal(second.eval()(clip), first.eval()(clip))
    assert same == (config.decoder == "skip")
    save_model(second, tmp_path / "two.safetensors")
    third = begin("joint", None, start=str(tmp_path / "two.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(third.state_dict().values(), second.state_dict().values()))


def test_a_model_may_predict_at_another_size(tmp_path):
    small = starting_model(
        "spatial", LITE_TINY, None, start=None, backbone_weights=None, seed=0, remark=print, input_size=(97, 129)
    )
    assert small.config == dataclasses.replace(LITE_TINY, temporal="none", input_size=(97, 129))
    assert (small.input_spec.height, small.input_spec.width) == (97, 129)
    save_model(small, tmp_path / "model.safetensors")
    assert begin("temporal", None, start=str(tmp_path)).config.input_size == (97, 129)
    released = SaliencyModel(variant="released", width=2, pdc_channels=2, input_size=(33, 33))
    save_model(released, tmp_path / "released.safetensors")
    options = {"start": str(tmp_path / "released.safetensors"), "backbone_weights": None, "seed": 0, "remark": print}
    with pytest.raises(InputError, match="its own input size, 33x33"):
        starting_model("joint", None, None, **options, input_size=(41, 41))


def test_a_name_is_no_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "lite").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_file("lite") == "lite"


def test_what_cannot_be_gone_on_from(tmp_path):
    save_model(SaliencyModel(TINY, temporal="none"), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="expected --from"):
        begin("temporal", TINY)
    with pytest.raises(InputError, match="its width is 2, and the model to train has 4"):
        begin("temporal", dataclasses.replace(TINY, width=4), start=str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match="which has a model.safetensors"):
        begin("temporal", TINY, start=str(tmp_path))
    untrained = begin("temporal", None, start=str(tmp_path / "a.safetensors")).untrained
    assert "random" in untrained  # Training only the temporal part does not make it true that all is trained.


def deep_stem_weights(model: DilatedResNet50) -> dict:
    """The backbone's weights under the names that segmentation toolboxes give them."""
    layers = {ours: theirs for theirs, ours in backbone_module._LAYERS.items()}
    stem = {ours: theirs for theirs, ours in backbone_module._STEM.items()}
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
    """A network that is given RGB as its weights were trained, and ours that is given BGR less the mean: the same features
    but where the stem's padding reaches."""
    theirs, ours = DilatedResNet50(width=2).eval(), DilatedResNet50(width=2).eval()
    for child in theirs.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.running_mean, -0.3, 0.3)
            nn.init.uniform_(child.weight, 0.5, 1.0)
    torch.save(deep_stem_weights(theirs) | {"fc.weight": torch.zeros(1000, 64)}, tmp_path / "w.pth")
    spec = ModelConfig().input_spec
    load_resnet_weights(ours, tmp_path / "w.pth", spec)
    picture = torch.randint(0, 256, (1, 3, 33, 33)).float()  # RGB
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone_module._MEAN, backbone_module._STD))
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


def test_an_input_size_beyond_all_bounds_is_told():
    options = {"start": None, "backbone_weights": None, "seed": 0, "remark": print}
    with pytest.raises(InputError, match="16384"):
        starting_model("spatial", LITE_TINY, None, **options, input_size=(16, 99999))


@pytest.mark.parametrize("size", [(10, 64), (32, 99999), (8192, 8192)])
def test_a_training_size_out_of_bounds_is_told(size):
    with pytest.raises(ValueError, match="size must be"):
        dataclasses.replace(modern("spatial"), size=size)
