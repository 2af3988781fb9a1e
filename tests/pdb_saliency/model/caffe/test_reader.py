"""The importer of .caffemodel files: every stored form, foreign networks, hostile and damaged bytes."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from helpers.caffe_files import key, message, net, released_layers, varint
from helpers.paths import shared_path
from pdb_saliency import WeightsError, load_caffemodel
from pdb_saliency.model.caffe.reader import read_caffemodel


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name="net.caffemodel"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def assert_refused(path, *words):
    """With one line that begins with the file's name and contains `words`."""
    with pytest.raises(WeightsError) as caught:
        load_caffemodel(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < 600
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"packed": False},
        {"double": True},
        {"double": True, "packed": False},
        {"legacy": True},
        {"legacy": True, "packed": False, "v1": True},
        {"v1": True, "double": True},
    ],
    ids=lambda form: "-".join(form) or "current",
)
def test_every_stored_form_gives_the_same_model(write, form):
    layers = released_layers()
    model = load_caffemodel(write(net(layers, **form)))
    assert (model.config.width, model.config.pdc_channels, model.config.reduced_channels) == (2, 3, 5)
    assert (model.config.hidden_channels, model.config.input_size) == (4, (17, 25))
    assert (model.input_spec.height, model.input_spec.width, model.input_spec.bgr) == (17, 25, True)
    assert not model.training and model.untrained is None
    blobs = dict(layers)
    state = model.state_dict()
    for name, expected in {
        "spatial.backbone.conv1_3.conv.weight": blobs["conv1_3_3x3"][0],
        "spatial.backbone.conv4.5.increase.bn.running_mean": blobs["conv4_6_1x1_increase/bn"][2],
        "spatial.backbone.conv5.0.proj.bn.running_var": blobs["conv5_1_1x1_proj/bn"][3],
        "spatial.pdc.branches.3.conv.weight": blobs["conv5_3_d16_conv"][0],
        "spatial.reduce.bn.bias": blobs["conv5_4/bn_"][1],
        "temporal.branches.1.forward_layer.weight_h": blobs["encode2"][3],
        "temporal.branches.0.backward_layer.peephole": np.stack(blobs["encode3"][5:8])[:, None],
        "temporal.branches.1.backward_layer.bias": blobs["encode4"][4],
        "head.bias": blobs["conv7"][1],
    }.items():
        np.testing.assert_array_equal(state[name].numpy(), expected.reshape(state[name].shape), err_msg=name)
    assert torch.isfinite(model(torch.randn(1, 2, 3, 17, 25))).all()


def test_every_blob_ends_up_somewhere(write):
    """The state has exactly the numbers of the file except the dummies: no blob is dropped, and none is read twice."""
    layers = released_layers()
    count = sum(array.size for name, arrays in layers for array in arrays)
    dummies = 4 * 4
    state = load_caffemodel(write(net(layers))).state_dict()
    assert sum(t.numel() for name, t in state.items() if not name.endswith("num_batches_tracked")) == count - dummies
    stored = np.sort(
        np.concatenate([a.ravel() for _, arrays in layers for a in arrays if a.size > 1 or a.flat[0] != 7.25])
    )
    filled = np.sort(np.concatenate([t.flatten().numpy() for n, t in state.items() if not n.endswith("tracked")]))
    np.testing.assert_array_equal(stored, filled)


def edited(edit) -> bytes:
    layers = dict(released_layers())
    edit(layers)
    return net(list(layers.items()))


def poison(layers, name, index, value):
    layers[name][index].flat[1] = value


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda layers: layers.pop("conv4_3_3x3"), ["layer conv4_3_3x3 is missing"]),
        (lambda layers: layers.pop("encode1"), ["layer encode1 is missing"]),
        (lambda layers: layers.update({"a\nb" * 999: [np.ones(1)]}), ["layer 'a\\nb"]),
        (lambda layers: layers.update(fc1000=[np.ones((10, 4))]), ["layer 'fc1000' is foreign"]),
        (lambda layers: layers["conv7"].pop(), ["conv7", "2 blobs", "got 1"]),
        (lambda layers: layers["encode2"].append(np.ones(1)), ["encode2", "10 blobs", "got 11"]),
        (
            lambda layers: layers.update(encode1=layers["encode1"][:5] + layers["encode1"][8:]),
            ["encode1", "shape (1,)"],
        ),
        (lambda layers: layers["conv2_1_3x3"].__setitem__(0, np.ones((2, 2, 3, 2))), ["conv2_1_3x3", "(2, 2, 3, 3)"]),
        (lambda layers: layers["encode4"].__setitem__(6, np.ones((4, 3))), ["encode4", "(3, 4)", "(4, 3)"]),
        (lambda layers: layers["conv1_1_3x3_s2"].__setitem__(0, np.ones((0, 3, 3, 3))), ["is empty", "(0, 3, 3, 3)"]),
        (lambda layers: poison(layers, "conv3_2_3x3", 0, np.nan), ["not finite"]),
        (lambda layers: poison(layers, "conv5_4/bn_", 0, np.inf), ["not finite"]),
        (lambda layers: poison(layers, "conv1_2_3x3/bn", 3, -1), ["negative variances"]),
    ],
)
def test_foreign_networks_are_refused(write, edit, words):
    assert_refused(write(edited(edit)), *words)


def test_two_layers_of_one_name_and_numbers_beyond_float32_are_refused(write):
    layers = released_layers()
    assert_refused(write(net([*layers, layers[0]])), "two layers", "conv1_1_3x3_s2")
    huge = [(name, [array.astype(np.float64) for array in arrays]) for name, arrays in layers]
    huge[0][1][0].flat[0] = 1e300
    assert_refused(write(net(huge, double=True)), "not finite")


def blob_net(blob_payload: bytes) -> bytes:
    return message(100, message(1, b"conv") + message(7, blob_payload))


def dims(*sizes: int) -> bytes:
    return message(7, message(1, b"".join(map(varint, sizes))))


HOSTILE = {
    "empty": b"",
    "text": b"name: 'net'\nlayer { name: 'conv' }\n" * 20,
    "png": cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "no layers": message(1, b"net"),
    "length of 2^63": key(100, 2) + varint(2**63),
    "endless number": key(100, 2) + b"\x80" * 20,
    "number cut off": b"\x80",
    "group": key(100, 3) + key(100, 4),
    "field number 0": b"\x02\x00",
    "name not UTF-8": message(100, message(1, b"\xff\xfe")),
    "shape of 2^62": blob_net(dims(2**31 - 1, 2**31 - 1) + message(5, b"\0" * 8)),
    "shape too large for C": blob_net(dims(0, 2**62)),
    "negative shape": blob_net(dims(2**64 - 1) + message(5, b"\0" * 4)),
    "shape of a million axes": blob_net(dims(*[1] * 10**6) + message(5, b"\0" * 4)),
    "shape of nothing": blob_net(dims(*[2**31 - 1] * 8, 0)),
    "many empty blobs": blob_net(dims(0)) * 5_000,
    "many empty layers": message(100, b"") * 100_000,
    "many blobs": message(100, message(7, dims() + message(5, b"\0" * 4)) * 30_000),
    "many layers": blob_net(dims() + message(5, b"\0" * 4)) * 30_000,
    "no shape": blob_net(message(5, b"\0" * 8)),
    "no data": blob_net(dims(3)),
    "half a float": blob_net(dims(1) + message(5, b"\0" * 6)),
    "half a double": blob_net(dims(1) + message(8, b"\0" * 12)),
    "unpacked float cut off": blob_net(dims(2) + key(5, 5) + b"\0" * 4 + key(5, 5) + b"\0\0"),
    "float as varint": blob_net(dims(1) + key(5, 0) + b"\0"),
    "double as float": blob_net(dims(1) + key(8, 5) + b"\0" * 4),
    "overlong key": blob_net(dims(1) + b"\xad\x00" + b"\0" * 4),
    "blob in a blob": blob_net(blob_net(blob_net(b""))),
    "runs of one": blob_net(dims(3) + (key(5, 5) + b"\0" * 4 + key(1, 0) + b"\1") * 5_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_without_allocating(write, name):
    path = write(HOSTILE[name])
    tracemalloc.start()
    try:
        assert_refused(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 4 * len(HOSTILE[name])


def test_a_file_of_endless_small_fields_is_refused_in_time(write):
    """Each costs a microsecond or more: without a limit, 100 MB of them would take more than a minute."""
    assert_refused(write(message(100, b"") * 300_000), "fields")
    assert_refused(write(blob_net((key(5, 5) + b"\0" * 4 + key(1, 0) + b"\1") * 150_000)), "fields")


def test_a_part_that_runs_into_the_next_part_is_refused(write):
    """A length that exceeds its own message but not the file: a check against the end of the file would miss it."""
    layer = message(1, b"conv") + key(7, 2) + varint(40)
    assert_refused(write(message(100, layer) + net(released_layers())), "40 bytes runs past the end of its message")


def test_missing_files_and_folders_are_refused(tmp_path):
    assert_refused(tmp_path / "absent.caffemodel", "No such file")
    assert_refused(tmp_path, "directory")


@pytest.mark.slow
def test_a_cut_off_file_is_refused(write):
    """Cut at all places near the structure and at many others. After the last weights there is nothing to lose."""
    content = net(released_layers())
    complete = content.rindex(message(100, message(1, b"silence") + message(2, b"Silence")))
    random = np.random.default_rng(1)
    cuts = {*range(60), *range(complete - 60, complete), *random.integers(60, complete, 120)}
    for name in (b"conv1_1_3x3_s2/bn", b"encode1", b"conv7"):
        at = content.index(name)
        cuts |= {*range(at - 12, at + 60)}
    for cut in sorted(map(int, cuts)):
        assert_refused(write(content[:cut]))
    assert load_caffemodel(write(content[:complete])).untrained is None


@pytest.mark.slow
def test_a_damaged_byte_is_refused_or_touches_one_blob(write):
    """Damaged structure is refused. A changed weight looks like any other weight, but nothing else may change."""
    content = net(released_layers())
    original = load_caffemodel(write(content)).state_dict()
    random = np.random.default_rng(2)
    structure = [at + offset for at in _find_all(content, b"conv") for offset in range(-6, 30)]
    offsets = [*random.choice(structure, 120), *random.integers(0, len(content), 80)]
    refused = 0
    for offset in map(int, offsets):
        damaged = bytearray(content)
        damaged[offset] ^= int(random.integers(1, 256))
        path = write(bytes(damaged))
        try:
            state = load_caffemodel(path).state_dict()
        except WeightsError:
            assert_refused(path)
            refused += 1
            continue
        changed = [name for name, tensor in state.items() if not torch.equal(tensor, original[name])]
        assert len(changed) <= 1 and all(torch.isfinite(state[name]).all() for name in changed), changed
    assert refused > 50


def _find_all(content: bytes, part: bytes) -> list[int]:
    found, at = [], content.find(part)
    while at >= 0:
        found.append(at)
        at = content.find(part, at + 1)
    return found


def test_the_thin_file_survives_the_same_damage(write):
    """A file that Caffe wrote: random cuts and flipped bits give a WeightsError or a complete model, nothing else."""
    content = shared_path("fixtures/caffe/thin.caffemodel").read_bytes()
    random = np.random.default_rng(3)
    last = content.rindex(b"conv7_interp/slice") - 40
    for cut in map(int, random.integers(0, last, 12)):
        assert_refused(write(content[:cut]))
    for offset in map(int, random.integers(0, len(content), 12)):
        damaged = bytearray(content)
        damaged[offset] ^= int(random.integers(1, 256))
        try:
            state = load_caffemodel(write(bytes(damaged))).state_dict()
        except WeightsError:
            continue
        assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_reader_returns_the_file_layers_in_order():
    layers = read_caffemodel(shared_path("fixtures/caffe/thin.caffemodel"))
    assert all(layer.blobs for layer in layers) and len({layer.name for layer in layers}) == len(layers)
    assert (layers[0].name, layers[0].type, layers[-1].name) == ("conv1_1_3x3_s2", "Convolution", "conv7")
    encode = next(layer for layer in layers if layer.name == "encode1")
    shapes = [blob.shape for blob in encode.blobs]
    assert shapes == [(128, 32, 3, 3), (1,), (1,), (128, 32, 3, 3), (128,), (12, 12), (12, 12), (12, 12), (1,), (1,)]
