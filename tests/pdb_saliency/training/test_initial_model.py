"""The weights that a stage starts from: those of the stage before, or ImageNet's."""

import dataclasses

import pytest
import torch

from helpers.training_data import TINY
from pdb_saliency.errors import InputError, WeightsError
from pdb_saliency.model.config import LITE
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
    # With a decoder the temporal part starts at zero: stage temporal begins where stage spatial ended.
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
    assert "random" in untrained  # Training only the temporal part does not make the whole model trained.


def test_an_input_size_beyond_all_bounds_is_reported():
    options = {"start": None, "backbone_weights": None, "seed": 0, "remark": print}
    with pytest.raises(InputError, match="16384"):
        starting_model("spatial", LITE_TINY, None, **options, input_size=(16, 99999))


@pytest.mark.parametrize("size", [(10, 64), (32, 99999), (8192, 8192)])
def test_a_training_size_out_of_bounds_is_refused(size):
    with pytest.raises(ValueError, match="size must be"):
        dataclasses.replace(modern("spatial"), size=size)


def test_motion_joins_a_spatial_part_that_never_saw_any(tmp_path):
    file = tmp_path / "spatial.safetensors"
    alone = SaliencyModel(dataclasses.replace(LITE_TINY, temporal="none", motion="none")).eval()
    alone.untrained = None
    save_model(alone, file)
    options = {"start": str(file), "backbone_weights": None, "seed": 0, "remark": print}
    model = starting_model("temporal", None, None, "residual", **options).eval()
    assert model.config == LITE_TINY
    clip = torch.randn(1, 3, 3, 65, 65)
    torch.testing.assert_close(model(clip), alone(clip))
    with pytest.raises(InputError, match="stage spatial has no temporal module that could see motion"):
        starting_model("spatial", None, None, "residual", **options)


def test_motion_needs_a_model_with_a_decoder(tmp_path):
    file = tmp_path / "paper.safetensors"
    model = SaliencyModel(TINY)
    model.untrained = None
    save_model(model, file)
    options = {"start": str(file), "backbone_weights": None, "seed": 0, "remark": print}
    with pytest.raises(InputError, match="--motion residual: motion 'residual' is found in the skip connection"):
        starting_model("temporal", None, None, "residual", **options)
