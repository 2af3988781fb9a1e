"""from_keras: held against Keras 3 where it is installed, and against its equations written out, channels last."""

import itertools
import sys
import types

import pytest
import torch
from torch.nn.functional import conv2d, relu6

from helpers.problems import rms
from pdb_ext import ConvLSTM, from_keras

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "hard_sigmoid": lambda x: relu6(x + 3) / 6,
    "hard_sigmoid_keras2": lambda x: (0.2 * x + 0.5).clip(0, 1),
}
PAIRS = [("tanh", "sigmoid"), ("tanh", "hard_sigmoid"), ("relu", "hard_sigmoid_keras2"), ("hard_sigmoid", "sigmoid")]


def weights_of(kernel_size=(3, 3), dtype=torch.float64):
    """kernel, recurrent_kernel, bias of 3 channels to 4 filters."""
    shapes = ((*kernel_size, 3, 16), (*kernel_size, 4, 16), (16,))
    return [(torch.randn(shape, dtype=torch.float64) * 0.3).to(dtype) for shape in shapes]


def written_out(clip, weights, activation="tanh", recurrent_activation="sigmoid", state=None):
    """ConvLSTM2D's outputs (N, T, H, W, F) for a clip (N, T, H, W, Cin), from its documentation's equations."""
    kernel, recurrent_kernel, bias = weights
    act, gate = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
    h, c = state if state is not None else (clip.new_zeros(*clip.shape[:1], *clip.shape[2:4], 4),) * 2

    def conv(frame, rows):
        return conv2d(frame.permute(0, 3, 1, 2), rows.permute(3, 2, 0, 1), padding="same").permute(0, 2, 3, 1)

    outputs = []
    for frame in clip.unbind(1):
        i, f, new, o = (
            conv(frame, of_x) + b + conv(h, of_h)
            for of_x, of_h, b in zip(kernel.split(4, -1), recurrent_kernel.split(4, -1), bias.split(4))
        )
        c = gate(f) * c + gate(i) * act(new)
        h = gate(o) * act(c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), (h, c)


def channels_first(clip):
    return clip.movedim(-1, -3)


@pytest.mark.parametrize("activation, recurrent_activation", PAIRS)
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 5)])
def test_it_is_the_equations(activation, recurrent_activation, kernel_size):
    weights, clip = weights_of(kernel_size), torch.randn(2, 4, 6, 7, 3, dtype=torch.float64)
    state = torch.randn(2, 2, 6, 7, 4, dtype=torch.float64).unbind()
    names = {"activation": activation, "recurrent_activation": recurrent_activation}
    expected, (h, c) = written_out(clip, weights, **names, state=state)
    layer = from_keras(weights, padding="same", **names)
    output, (h_n, c_n) = layer(channels_first(clip), tuple(channels_first(part) for part in state))
    torch.testing.assert_close(output, channels_first(expected))
    torch.testing.assert_close((h_n, c_n), (channels_first(h), channels_first(c)))


def test_weights_as_they_come():
    """As numpy arrays, without bias, in float32; copied, so that they stay what they are."""
    weights = weights_of(dtype=torch.float32)
    arrays = [value.numpy().copy() for value in weights]
    layer = from_keras(arrays, padding="SAME")
    assert layer.weight_x.dtype == torch.float32 and layer.batch_first and not layer.reverse
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in layer.parameters())
    with torch.no_grad():
        layer.weight_x.zero_()
    assert all((array == value.numpy()).all() for array, value in zip(arrays, weights))
    assert from_keras(tuple(arrays[:2]), padding="same").bias is None


def test_backwards():
    weights, clip = weights_of(), torch.randn(2, 4, 6, 7, 3, dtype=torch.float64)
    expected, (h, _) = written_out(clip.flip(1), weights)
    output, (h_n, _) = from_keras(weights, padding="same", go_backwards=True)(channels_first(clip))
    torch.testing.assert_close(output.flip(1), channels_first(expected))
    torch.testing.assert_close(h_n, channels_first(h))


def duck(version="3.15.1", package="keras", weights=None, **config):
    """What from_keras needs of a layer, and where its class says that it is from."""
    parent = type("ConvLSTM2D", (), {"__module__": f"{package}.src.layers"})
    layer = type("Mine", (parent,), {"__module__": "models"})()
    layer.get_config = lambda: {"padding": "same", "use_bias": True, "unit_forget_bias": True, **config}
    layer.get_weights = lambda: weights_of() if weights is None else weights
    return layer, types.SimpleNamespace(__version__=version)


@pytest.mark.parametrize(
    "version, package, expected",
    [
        ("3.15.1", "keras", "hard_sigmoid"),
        ("2.15.0", "keras", "hard_sigmoid_keras2"),
        ("2.18.0", "tf_keras", "hard_sigmoid_keras2"),
        ("2.3.1", "tensorflow", "hard_sigmoid_keras2"),
    ],
)
def test_the_hard_sigmoid_is_that_of_the_layers_keras(version, package, expected, monkeypatch):
    layer, module = duck(version, package, recurrent_activation="hard_sigmoid", activation="tanh")
    monkeypatch.setitem(sys.modules, package, module)
    ours = from_keras(layer)
    assert (ours.activation, ours.recurrent_activation) == ("tanh", expected)
    assert from_keras(layer, recurrent_activation="sigmoid").recurrent_activation == "sigmoid"


@pytest.mark.parametrize(
    "config, options, message",
    [
        ({"padding": "valid"}, {}, "padding must be \"same\"; .* got 'valid'"),
        ({"strides": (2, 1)}, {}, r"strides must be 1; .*, got \(2, 1\)"),
        ({"dilation_rate": (2, 2)}, {}, r"dilation_rate must be 1; Keras dilates .* alone, .*, got \(2, 2\)"),
        ({}, {"dilation_rate": 2}, "dilation_rate must be 1; .* got 2"),
        ({"activation": "elu"}, {}, "activation must be one of .*'hard_sigmoid_keras2'.*, got 'elu'"),
        ({"recurrent_activation": {"class_name": "function"}}, {}, "recurrent_activation must be one of"),
        ({"dropout": 0.2}, {}, "dropout must be 0; .* dropout=0.0 leaves it out, .*, got 0.2"),
        ({"stateful": True}, {}, "stateful must be False; give stateful=False, .*, got True"),
    ],
)
def test_what_differs_is_refused(config, options, message):
    layer, _ = duck(**config)
    with pytest.raises(ValueError, match=f"^from_keras: {message}"):
        from_keras(layer, **options)


def test_refusals_that_an_option_passes():
    layer, _ = duck(dropout=0.2, stateful=True, recurrent_dropout=0.25)
    ours = from_keras(layer, dropout=0.0, stateful=False)
    assert ours.recurrent_dropout == 0.25 and ours.dropout == 0


@pytest.mark.parametrize(
    "weights, message",
    [
        ([], r"layer must be .* \[kernel, recurrent_kernel, bias\] or without bias, got 0 arrays"),
        (7, "layer must be a built ConvLSTM2D or its weights, .*, got int"),
        ([torch.zeros(3, 3, 16), torch.zeros(3, 3, 4, 16)], r"kernel must have shape .*, got shape \(3, 3, 16\)"),
        ([torch.zeros(2, 3, 3, 16), torch.zeros(2, 3, 4, 16)], r"kernel must .*, kh and kw odd, got shape \(2, 3,"),
        ([torch.zeros(3, 3, 3, 18), torch.zeros(3, 3, 4, 18)], r"kernel must have shape .*, got shape \(3, 3, 3, 18\)"),
        (
            [torch.zeros(3, 3, 3, 16), torch.zeros(3, 3, 3, 16)],
            r"recurrent_kernel must .* \(3, 3, 4, 16\), got .*3, 16",
        ),
        ([torch.zeros(3, 3, 3, 16), torch.zeros(3, 3, 4, 16), torch.zeros(4)], r"bias must have shape \(16,\), got"),
        ([torch.zeros(3, 3, 3, 16).int(), torch.zeros(3, 3, 4, 16)], "kernel must be of floats, got torch.int32"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=f"^from_keras: {message}"):
        from_keras(weights, padding="same")


def test_unknown_options():
    with pytest.raises(TypeError, match="^from_keras: unknown option 'recurent_activation'; the options are padding,"):
        from_keras(weights_of(), recurent_activation="tanh")


# Against Keras itself


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        module = pytest.importorskip("keras", minversion="3", reason="Keras 3 is not installed")
        if module.backend.backend() != "torch":
            pytest.skip("Keras was imported with another backend")
        yield module


def keras_layer(keras, dtype="float64", **options):
    """A built ConvLSTM2D from 3 to 4 channels on pictures of 6x7, with weights that matter."""
    options = {"padding": "same", "return_sequences": True, "return_state": True} | options
    layer = keras.layers.ConvLSTM2D(4, options.pop("kernel_size", 3), dtype=dtype, **options)
    layer.build((2, 4, 6, 7, 3) if layer.data_format == "channels_last" else (2, 4, 3, 6, 7))
    layer.set_weights([torch.randn(value.shape).numpy() * 0.3 for value in layer.get_weights()])
    return layer


def of_keras(layer, x):
    """(sequence, h, c), channels first, for x (N, T, Cin, H, W)."""
    is_last = layer.data_format == "channels_last"
    results = layer(x.movedim(-3, -1) if is_last else x)
    return [channels_first(value) if is_last else value for value in results]


@pytest.mark.parametrize(
    "options",
    [
        *({"activation": a, "recurrent_activation": r} for a, r in itertools.product(list(ACTIVATIONS)[:4], repeat=2)),
        {"use_bias": False, "kernel_size": (3, 5)},
        {"data_format": "channels_first", "unit_forget_bias": False},
        {"go_backwards": True},
        {"recurrent_dropout": 0.5},
    ],
    ids=str,
)
def test_it_is_keras(options, keras):
    layer = keras_layer(keras, **options)
    x = torch.randn(2, 4, 3, 6, 7, dtype=torch.float64)
    expected, h, c = of_keras(layer, x)
    output, (h_n, c_n) = from_keras(layer).eval()(x)
    torch.testing.assert_close(output.flip(1) if layer.go_backwards else output, expected)
    torch.testing.assert_close((h_n, c_n), (h, c))


def test_gradients_are_those_of_keras(keras):
    layer = keras_layer(keras)
    ours = from_keras(layer)
    x = torch.randn(2, 4, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    theirs = [variable.value for variable in layer.trainable_weights]
    expected = torch.autograd.grad(of_keras(layer, x)[0].square().sum(), [x, *theirs])
    grads = torch.autograd.grad(ours(x)[0].square().sum(), [x, *ours.parameters()])
    torch.testing.assert_close(grads[0], expected[0])
    as_layer = from_keras(expected[1:], padding="same")
    torch.testing.assert_close(list(grads[1:]), [value.detach() for value in as_layer.parameters()])


def test_error_is_at_most_twice_that_of_keras(keras):
    layer, x = keras_layer(keras, "float32"), torch.randn(2, 4, 3, 6, 7)
    exact = keras_layer(keras)
    exact.set_weights(layer.get_weights())
    expected = of_keras(exact, x.double())[0]
    ours, theirs = (rms(value - expected) for value in (from_keras(layer)(x)[0], of_keras(layer, x)[0]))
    assert ours <= max(2 * theirs, 2 * torch.finfo(torch.float32).eps * rms(expected))


def test_the_last_output_and_initial_states(keras):
    layer = keras_layer(keras, return_sequences=False, return_state=False)
    x = torch.randn(2, 4, 3, 6, 7, dtype=torch.float64)
    ours = from_keras(layer)
    torch.testing.assert_close(ours(x)[1][0], channels_first(layer(x.movedim(-3, -1))))
    hx = torch.randn(2, 2, 4, 6, 7, dtype=torch.float64).unbind()
    expected = layer(x.movedim(-3, -1), initial_state=[part.movedim(-3, -1) for part in hx])
    torch.testing.assert_close(ours(x, hx)[1][0], channels_first(expected))


def test_what_keras_does_otherwise_is_refused(keras):
    for options, name in (({"padding": "valid"}, "padding"), ({"strides": 2}, "strides"), ({"dilation_rate": 2}, "dil"),
                          ({"dropout": 0.1}, "dropout"), ({"activation": "elu"}, "activation"),
                          ({"activation": None}, "activation"), ({"activation": torch.sin}, "activation")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^from_keras: {name}"):
            from_keras(keras_layer(keras, **options))
    with pytest.raises(ValueError, match="layer must be a built ConvLSTM2D .*, got 0 arrays"):
        from_keras(keras.layers.ConvLSTM2D(4, 3, padding="same"))
    both = keras.layers.Bidirectional(keras.layers.ConvLSTM2D(4, 3, padding="same"))
    with pytest.raises(ValueError, match="layer must be a built ConvLSTM2D .*, got Bidirectional"):
        from_keras(both, padding="same")


def test_stateful_layers_and_custom_functions(keras):
    stateful = keras.layers.ConvLSTM2D(4, 3, padding="same", stateful=True, dtype="float64")
    clip = torch.randn(2, 4, 6, 7, 3, dtype=torch.float64)
    first, second = stateful(clip), stateful(clip)
    ours = from_keras(stateful, stateful=False)
    _, state = ours(channels_first(clip))
    torch.testing.assert_close(state[0], channels_first(first))
    torch.testing.assert_close(ours(channels_first(clip), state)[1][0], channels_first(second))

    def hard_sigmoid(x):
        return keras.ops.clip(0.2 * x + 0.5, 0, 1)

    layer = keras_layer(keras, recurrent_activation=hard_sigmoid)
    ours = from_keras(layer, recurrent_activation="hard_sigmoid_keras2")
    assert isinstance(ours, ConvLSTM)
    torch.testing.assert_close(ours(channels_first(clip))[0], of_keras(layer, channels_first(clip))[0])
