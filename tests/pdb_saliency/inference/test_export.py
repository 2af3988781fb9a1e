"""Exported models answer as the model does, in processes that have none of our code."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers.models import tiny, trained_like
from pdb_saliency import cli, save_model
from pdb_saliency.errors import InputError, OutputError, SaliencyError
from pdb_saliency.inference import export
from pdb_saliency.inference.export import Portable
from pdb_saliency.model.residual_motion import ResidualMotion
from pdb_saliency.options import EXPORT_FORMATS

# Runs where neither `pdb_ext` nor `pdb_saliency` can be imported, and blocks those imports itself.
_ALONE = """\
import sys, numpy, torch
for name in ("pdb_ext", "pdb_saliency"):
    sys.modules[name] = None
file, folder = sys.argv[1:]
{load}
for count in (1, 3):
    clip = torch.from_numpy(numpy.load(f"{{folder}}/clip{{count}}.npy"))
    with torch.no_grad():
        numpy.save(f"{{folder}}/out{{count}}.npy", numpy.asarray(network(clip)))
assert not hasattr(torch.ops.pdb_ext, "convlstm")
"""
_LOAD = {
    "torch-export": "network = torch.export.load(file).module()",
    "aoti": "import torch._inductor; network = torch._inductor.aoti_load_package(file)",
    "onnx": "import onnxruntime\n"
    "session = onnxruntime.InferenceSession(file)\n"
    "network = lambda clip: session.run(None, {'clip': clip.numpy()})[0]",
}
SUFFIX = {"torch-export": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}
KINDS = {
    "paper": {},
    "light": {"backbone": "efficientnet_lite0", "decoder": "skip"},
    "moving": {"backbone": "efficientnet_lite0", "decoder": "skip", "motion": "residual"},
    "released": {"variant": "released"},
}


@pytest.fixture
def network(request):
    return trained_like(tiny(**KINDS[request.param])).float()


def expected(model, clip):
    """By `prepare` and the plain model, from frames as OpenCV would decode them."""
    frames = clip.permute(0, 1, 3, 4, 2).flip(-1).byte().numpy()
    batch = torch.stack([model.input_spec.prepare(list(frames_)) for frames_ in frames])
    with torch.no_grad():
        return model(batch).sigmoid()[:, :, 0].numpy()


def random_clip(model, count, length):
    size = (model.input_spec.height, model.input_spec.width)
    return torch.randint(0, 256, (count, length, 3, *size)).float()


def needs(format):
    if format == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["paper"], indirect=True)
@pytest.mark.parametrize("format", list(SUFFIX))
def test_an_exported_model_runs_alone(tmp_path, network, format):
    """For one and three clips, though it was traced with two."""
    needs(format)
    file = tmp_path / f"model{SUFFIX[format]}"
    save_model(network, tmp_path / "model.safetensors")
    arguments = [
        "export",
        str(tmp_path / "model.safetensors"),
        "-o",
        str(file),
        "--format",
        format,
        "--clip-length",
        "2",
    ]
    assert cli.main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, "model.safetensors"])
    clips = {count: random_clip(network, count, 2) for count in (1, 3)}
    for count, clip in clips.items():
        np.save(tmp_path / f"clip{count}.npy", clip.numpy())
    subprocess.run([sys.executable, "-c", _ALONE.format(load=_LOAD[format]), file, tmp_path], check=True, cwd=tmp_path)
    for count, clip in clips.items():
        exact, answer = expected(network, clip), np.load(tmp_path / f"out{count}.npy")
        assert exact.std() > 1e-3 and answer.shape == exact.shape and answer.dtype == np.float32
        np.testing.assert_allclose(answer, exact, atol=1e-5)


@pytest.mark.slow(but=["light-torch-export"])
@pytest.mark.parametrize(
    ("network", "format"),
    [
        ("light", "onnx"),
        ("released", "onnx"),
        ("light", "torch-export"),
        ("moving", "torch-export"),
        ("moving", "onnx"),
    ],
    indirect=["network"],
)
def test_the_written_file_answers_as_the_model(tmp_path, network, format):
    needs(format)
    _, _, read = export.FORMATS[format]
    file = tmp_path / f"model{SUFFIX[format]}"
    assert export.export(network, file, format, 2) < 1e-5
    clip = random_clip(network, 3, 2)
    with torch.no_grad():
        np.testing.assert_allclose(read(file)(clip).numpy(), expected(network, clip), atol=1e-5)


class _Motion(torch.nn.Module):
    """Checked on what the network sees, since the maps of an untrained one hardly show it."""

    def forward(self, features):
        return ResidualMotion()(features, (2, 3))


@pytest.mark.slow
def test_motion_as_onnx(tmp_path, caplog):
    """The exporter ignores arguments that it does not know, and warns about libraries that are not used."""
    needs("onnx")
    import onnxruntime

    still = torch.randn(6, 4, 18, 24)
    features = torch.stack([still[i].roll(i % 3, -1) if i < 3 else still[0].roll(-(i % 3), -2) for i in range(6)])
    features[:, :, 4:12, 4:12] = torch.stack([still[5, :, 4:12, 4:12].roll(2 * (i % 3), -1) for i in range(6)])
    exact = _Motion()(features)
    assert exact[:, :2].abs().max() > 1, "something moves"
    export.write_onnx(torch.export.export(_Motion(), (features,)), ["features"], ["motion"], tmp_path / "motion.onnx")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    session = onnxruntime.InferenceSession(tmp_path / "motion.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"features": features.numpy()})
    np.testing.assert_allclose(answer, exact, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["paper"], indirect=True)
def test_onnx_has_standard_operators_only(tmp_path, network):
    needs("onnx")
    import onnx

    export.export(network, tmp_path / "model.onnx", "onnx", 2)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
    (clip,), (saliency,) = model.graph.input, model.graph.output
    assert (clip.name, saliency.name) == ("clip", "saliency")


@pytest.mark.parametrize("network", list(KINDS), indirect=True)
def test_the_portable_network_is_the_model(network):
    clip = random_clip(network, 2, 4)
    np.testing.assert_allclose(Portable(network)(clip).numpy(), expected(network, clip), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["paper"], indirect=True)
def test_an_answer_that_differs_is_not_written(tmp_path, network, monkeypatch):
    write, read = export._write_program, lambda path: lambda clip: torch.zeros(2, 2, 33, 41)
    monkeypatch.setitem(export.FORMATS, "torch-export", (".pt2", write, read))
    with pytest.raises(SaliencyError, match="differs"):
        export.export(network, tmp_path / "model.pt2", "torch-export", 2)
    assert not list(tmp_path.iterdir())


def test_the_command_line_offers_the_formats_that_there_are():
    assert tuple(export.FORMATS) == EXPORT_FORMATS


@pytest.mark.parametrize("network", ["released"], indirect=True)
def test_the_released_variant_keeps_its_size(tmp_path, network):
    height, width = network.config.input_size
    with pytest.raises(InputError, match="has its own input size, .*: leave --size out"):
        export.export(network, tmp_path / "model.pt2", "torch-export", 2, size=(height + 8, width))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", ["paper"], indirect=True)
def test_what_goes_wrong_is_one_line(tmp_path, network, monkeypatch):
    with pytest.raises(OutputError, match="must end in .onnx"):
        export.export(network, tmp_path / "model.pt2", "onnx")
    with pytest.raises(OutputError, match="folder does not exist"):
        export.export(network, tmp_path / "absent" / "model.pt2", "torch-export")
    with pytest.raises(ValueError, match="tflite"):
        export.export(network, tmp_path / "model.pt2", "tflite")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SaliencyError, match=r"ONNX needs .*: pip install 'pdb-ext\[export\]'"):
        export.export(network, tmp_path / "model.onnx", "onnx")

    def no_compiler(*_):
        raise RuntimeError("g++: not found\nmore")

    monkeypatch.setitem(export.FORMATS, "aoti", (".pt2", no_compiler, None))
    with pytest.raises(SaliencyError, match=r"export to aoti failed \(it needs a C\+\+ compiler\): g\+\+: not found$"):
        export.export(network, tmp_path / "model.pt2", "aoti")
    assert not list(tmp_path.iterdir())
