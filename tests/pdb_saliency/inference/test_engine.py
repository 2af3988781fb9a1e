"""The inference engine: its maps are the model's, however it folds, fuses, batches, overlaps or carries over state."""

from __future__ import annotations

import copy
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from helpers.models import CPU, TINY, assert_as_good, clip, engine_maps, films, plain_maps, tiny, trained_like
from helpers.paths import shared_path
from helpers.problems import rms
from pdb_saliency import SaliencyError, SaliencyModel, load_model
from pdb_saliency.inference.engine import Engine, can_fuse
from pdb_saliency.inference.optimise import FusedConv2d, fold_batch_norm, fuse
from pdb_saliency.inference.pipeline import Landing
from pdb_saliency.model.config import LITE
from pdb_saliency.model.layers import ConvBatchNorm, SameConv2d
from pdb_saliency.options import EngineOptions
from pdb_saliency.timing.stages import largest_difference
from pdb_saliency.video.frame import Frame

VARIANTS = [
    {},
    {"backbone": "efficientnet_lite0", "decoder": "skip"},
    {"backbone": "efficientnet_lite0", "pdc": "aspp", "input_size": (34, 47)},
    {"decoder": "skip", "temporal": "none"},
    {"variant": "released"},
]


# Folding and fusing


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_folding_changes_nothing_but_rounding(options):
    model = trained_like(tiny(**options))
    folded = fold_batch_norm(copy.deepcopy(model))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = clip(2, 3, model.config.input_size)
    assert rms(model(x)) > 0.01
    torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_folding_a_layer_with_a_bias(depthwise, relu):
    layer = ConvBatchNorm(6, 6, 3, relu=relu)
    layer.conv = nn.Conv2d(6, 6, 3, padding=1, groups=6 if depthwise else 1)
    layer = layer.double().eval()
    for tensor in (*layer.parameters(), layer.bn.running_mean, layer.bn.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(fold_batch_norm(copy.deepcopy(layer))(x), layer(x))


@pytest.mark.skipif(not can_fuse(CPU, torch.float32), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()])
@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "dilation", "groups", "size"),
    [
        (nn.Conv2d, 3, 2, 1, 1, (9, 12)),
        (nn.Conv2d, 3, 1, 4, 1, (9, 12)),
        (SameConv2d, 5, 2, 1, 8, (9, 12)),
        (SameConv2d, 5, 2, 1, 8, (9, 13)),
        (SameConv2d, 3, 1, 2, 8, (9, 12)),
        *((SameConv2d, 5, 1, 4, 8, size) for size in ((9, 12), (8, 16), (3, 1), (41, 41))),
    ],
)
def test_a_fused_convolution_is_the_convolution(kind, kernel, stride, dilation, groups, size, activation):
    padding = 0 if kind is SameConv2d else dilation * (kernel // 2)
    conv = kind(8, 8, kernel, stride, padding, dilation, groups)
    x = 10 * torch.randn(2, 8, *size)

    def expected(dtype, shortcut=None):
        y = copy.deepcopy(conv).to(dtype)(x.to(dtype))
        y = y if shortcut is None else y + shortcut
        return y if activation is None else activation(y.clone())

    with torch.no_grad():
        fused = FusedConv2d(conv, activation)
        exact, plain = expected(torch.float64), expected(torch.float32)
        assert_as_good(fused(x).numpy(), plain.numpy(), exact.numpy())
        if groups == 1 and not isinstance(activation, nn.ReLU6):
            shortcut = torch.randn_like(plain)
            exact, plain = expected(torch.float64, shortcut), expected(torch.float32, shortcut)
            assert_as_good(fused(x, shortcut).numpy(), plain.numpy(), exact.numpy())


@pytest.mark.skipif(not can_fuse(CPU, torch.float32), reason="this PyTorch has no oneDNN")
def test_every_convolution_of_the_spatial_part_is_fused():
    for options in VARIANTS:
        network = fuse(fold_batch_norm(tiny(**options).float()))
        left = [module for module in network.spatial.modules() if isinstance(module, (nn.Conv2d, nn.ReLU, nn.ReLU6))]
        assert not left and any(isinstance(module, FusedConv2d) for module in network.modules())


# Maps


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_engines_maps_are_the_models(options, batch):
    model, frames = trained_like(tiny(**options)), films(12)
    exact = plain_maps(model, frames)
    assert exact.std() > 1e-3
    model = model.float()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_as_good(engine_maps(model, frames, batch=batch), plain_maps(model, frames), exact)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()), (
        "the model stays as it is"
    )


@pytest.mark.slow
def test_the_shipped_models_maps():
    model, frames = load_model(), films(5, size=(90, 120))
    exact = plain_maps(copy.deepcopy(model).double(), frames)
    assert_as_good(engine_maps(model, frames), plain_maps(model, frames), exact)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64)])
def test_a_video_is_seen_in_its_own_shape(size):
    """And the model's own output step turns the network's map into the frame's."""
    model = trained_like(
        tiny(**VARIANTS[1], motion="residual", keep_aspect=True, refine="guided", calibration=(1.5, -0.2))
    )
    frames, spec = films(7, size=size), model.input_spec.fitted(*size)
    assert np.sign(spec.height - spec.width) == np.sign(size[0] - size[1])
    exact, plain = plain_maps(model, frames), plain_maps(copy.deepcopy(model).float(), frames)
    assert_as_good(engine_maps(model.float(), frames), plain, exact)
    for options in ({"overlap": 2}, {"causal": True}):
        assert engine_maps(model, frames, **options).shape == (7, *size)


def test_the_maps_of_the_authors_network():
    model = load_model(shared_path("fixtures/caffe/thin.caffemodel"))
    frames = films(5, size=(89, 89))
    exact = plain_maps(copy.deepcopy(model).double(), frames)
    assert_as_good(engine_maps(model, frames), plain_maps(model, frames), exact)


def test_lower_precision():
    model, frames = trained_like(tiny()), films(7)
    exact = plain_maps(model, frames)
    plain = plain_maps(copy.deepcopy(model).bfloat16(), frames)
    ours = engine_maps(model, frames, precision="bfloat16")
    assert_as_good(ours, plain, exact)
    assert np.abs(ours - engine_maps(model, frames)).max() > 1e-4, "another precision was used"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"overlap": 2}, {"causal": True}, {"batch": 3}, {"compile": True}], ids=str)
def test_maps_of_a_gpu(options, precision):
    model, frames = load_model(), films(23, size=(90, 120))  # More than a batch, and not a multiple of a clip.
    engine = Engine(model, torch.device("cuda"), EngineOptions(precision=precision, **options))
    ours = np.stack([saliency for _, saliency in engine.maps(frames)])
    cpu = engine_maps(model, frames, **{name: value for name, value in options.items() if name != "compile"})
    assert rms(torch.tensor(ours - cpu)) <= largest_difference(engine) * rms(torch.tensor(cpu))


@pytest.mark.parametrize("length", [1, 3, 8])
def test_any_clip_length(length):
    model, frames = trained_like(tiny()).float(), films(10)
    np.testing.assert_allclose(
        engine_maps(model, frames, clip_length=length), plain_maps(model, frames, length), atol=1e-5
    )


def test_preparing_in_two_halves_is_the_same_bit_for_bit():
    for config in (TINY, LITE):
        spec, frames = config.input_spec, [frame.image for frame in films(3, size=(50, 40))]
        resized = torch.from_numpy(np.stack([spec.resize(frame) for frame in frames]))
        assert torch.equal(spec.normalise(resized), spec.prepare(frames))


def test_failed_compilation_is_one_line(caplog, monkeypatch):
    def broken(*_, **__):
        def call(_):
            raise RuntimeError("no compiler\nat all")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    model, frames = trained_like(tiny()).float(), films(7)
    np.testing.assert_array_equal(engine_maps(model, frames, compile=True), engine_maps(model, frames))
    assert caplog.messages == ["torch.compile failed, the network runs without it (no compiler)"]


def test_a_compiled_network_sees_batches_of_one_size(monkeypatch):
    """Every other size would be compiled again, for minutes."""
    model, frames, seen = trained_like(tiny()).float(), films(11), []
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda x: seen.append(len(x)) or function(x))
    ours = engine_maps(model, frames, compile=True, batch=4)
    assert seen == [4, 4, 4]
    np.testing.assert_allclose(ours, engine_maps(model, frames), atol=1e-5)


def test_maps_are_waited_for_where_they_are_used(monkeypatch):
    """As on a GPU: the network's thread starts all transfers, ahead of the reader, who waits for one at a time."""
    begun, waited = [], []

    class Slow(Landing):
        @classmethod
        def of(cls, tensor):
            begun.append(threading.current_thread())
            return cls(tensor)

        def wait(self):
            waited.append(threading.current_thread())
            return self.tensor

    monkeypatch.setattr("pdb_saliency.inference.engine.Landing", Slow)
    model, frames = trained_like(tiny()).float(), films(7)
    np.testing.assert_array_equal(engine_maps(model, frames), engine_maps(model, frames))
    assert len(begun) == len(waited) == 14
    assert threading.current_thread() not in begun and set(waited) == {threading.current_thread()}


@pytest.mark.parametrize("overlap", [0, 4])
def test_clips_do_not_hold_the_pictures(overlap):
    """Frames of 100 megapixels have 300 MB each: only a clip, and what the stages are working on, may be held."""
    alive, most = weakref.WeakSet(), 0

    class Picture(np.ndarray):
        """An array that can be counted: hashable."""

        __hash__ = object.__hash__

    def frames():
        for frame in films(40):
            image = frame.image.view(Picture)
            alive.add(image)
            yield Frame(frame.name, image)

    for _ in Engine(trained_like(tiny()).float(), CPU, EngineOptions(overlap=overlap)).maps(frames()):
        most = max(most, len(alive))
    assert 5 <= most <= 12, "4 of a clip, 1 on its way out, 2 behind it, the reader's, and 3 or 4 ahead"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes")])
def test_a_lack_of_memory_says_what_needs_less(error, monkeypatch):
    engine = Engine(trained_like(tiny()).float(), CPU)
    monkeypatch.setattr(engine, "_encode", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(SaliencyError, match="frame 0: not enough memory; shorter clips and smaller batches need less"):
        list(engine.maps(films(3)))


def test_an_illegal_access_is_no_lack_of_memory(monkeypatch):
    engine = Engine(trained_like(tiny()).float(), CPU)
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(engine, "_encode", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(SaliencyError, match="^the model failed at frame 0: CUDA error: an illegal memory access"):
        list(engine.maps(films(3)))


def test_wrong_options_are_named():
    for options, word in (
        ({"overlap": 5}, "below clip_length = 5, got 5"),
        ({"clip_length": 0}, "clip_length"),
        ({"batch": True}, "batch"),
        ({"causal": True, "overlap": 1}, "causal"),
        ({"precision": "half"}, "precision"),
    ):
        with pytest.raises(ValueError, match=word):
            EngineOptions(**options)


def test_a_model_that_overflows_is_one_line():
    model = trained_like(tiny()).float()
    model.head.bias.data.fill_(float("nan"))
    with pytest.raises(SaliencyError, match="not finite at frame 0"):
        engine_maps(model, films(3))
    assert isinstance(model, SaliencyModel)
