"""`from_keras`: a ConvLSTM with the weights of Keras's ConvLSTM2D."""

import sys
from typing import NoReturn

import torch
from torch import Tensor

from .checks import ACTIVATIONS
from .modules import ConvLSTM

# The arguments of ConvLSTM2D on which its results depend, besides its weights, and their defaults.
_DEFAULTS = {
    "padding": "valid",
    "strides": 1,
    "dilation_rate": 1,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
    "go_backwards": False,
    "stateful": False,
}


_NAMES = ("kernel", "recurrent_kernel", "bias")


def from_keras(layer, **options) -> ConvLSTM:
    """A :class:`ConvLSTM` that computes what a `keras.layers.ConvLSTM2D` computes.

    Args:
        layer: the layer, of Keras 2 or 3, built; or its weights, as `layer.get_weights()` returns them: arrays or
            tensors [kernel (kh, kw, Cin, 4F), recurrent_kernel (kh, kw, F, 4F), bias (4F,)], without bias if it has
            none; kh and kw odd. They are copied. Neither Keras nor numpy is imported.
        options: arguments of ConvLSTM2D, in place of the layer's own, or for weights of Keras's defaults: padding,
            strides, dilation_rate, activation, recurrent_activation, dropout, recurrent_dropout, go_backwards,
            stateful. Some values are refused, see below. Of a layer, "hard_sigmoid" is that of its Keras; with weights
            it is that of Keras 3, and "hard_sigmoid_keras2" that of Keras 1 and 2.

    Returns:
        a ConvLSTM(Cin, F, batch_first=True) of the weights' dtype, with reverse=go_backwards. Keras's arguments
        data_format, return_sequences and return_state do not matter: for x (N, T, Cin, H, W) and hx for initial_state
        it returns (output, (h_n, c_n)), in Keras's terms the sequence, channels first, and the two states; h_n is what
        return_sequences=False returns. With go_backwards Keras returns the sequence in the order in which it was
        computed, last frame first: `output.flip(1)`.
        recurrent_dropout draws one mask a sequence for all gates together, Keras one for each gate.

    Raises:
        ValueError: for padding="valid", Keras's default, and strides: frames of one size are needed throughout; a
            dilation_rate, which Keras applies to the input's convolution alone; dropout of inputs; stateful=True; other
            activations; even kernels; weights of other shapes. dropout=0.0 and stateful=False pass the refusal.
        TypeError: an unknown option.
    """
    if unknown := options.keys() - _DEFAULTS:
        raise TypeError(f"from_keras: unknown option {min(unknown)!r}; the options are {', '.join(_DEFAULTS)}")
    config, weights = {}, layer
    if hasattr(layer, "get_weights"):
        config, weights = _config_of(layer), layer.get_weights()
        weights = weights[: 3 if config.get("use_bias", True) else 2]  # behind them the states of a stateful layer
    settings = _DEFAULTS | {name: config[name] for name in _DEFAULTS if name in config} | options
    _check(settings)
    kernel, recurrent_kernel, bias = _unpack(weights)
    kh, kw, in_channels, rows = kernel.shape
    ours = ConvLSTM(
        in_channels, rows // 4, (kh, kw), bias=bias is not None, activation=settings["activation"],
        recurrent_activation=settings["recurrent_activation"], recurrent_dropout=settings["recurrent_dropout"],
        reverse=bool(settings["go_backwards"]), batch_first=True, device=kernel.device, dtype=kernel.dtype,
    )  # fmt: skip
    values = {"weight_x": kernel.permute(3, 2, 0, 1), "weight_h": recurrent_kernel.permute(3, 2, 0, 1)}
    values |= {} if bias is None else {"bias": bias}
    ours.load_state_dict({name: _in_our_order(value) for name, value in values.items()})
    return ours


def _in_our_order(rows: Tensor) -> Tensor:
    """Keras's gates i, f, c, o as ours: i, f, o, g."""
    i, f, c, o = rows.chunk(4)
    return torch.cat([i, f, o, c])


def _config_of(layer) -> dict:
    parent = next((base for base in type(layer).__mro__ if base.__name__ == "ConvLSTM2D"), None)
    if parent is None:
        _fail_of_layer(type(layer).__name__)
    # Keras 2 was in keras, in tf_keras and in tensorflow 2.
    package = sys.modules.get(parent.__module__.partition(".")[0])
    is_keras_2 = int(getattr(package, "__version__", "3").partition(".")[0]) < 3
    config = dict(layer.get_config())
    for name in ("activation", "recurrent_activation"):
        if config.get(name) == "hard_sigmoid" and is_keras_2:
            config[name] = "hard_sigmoid_keras2"
    return config


def _check(settings: dict) -> None:
    if str(settings["padding"]).lower() != "same":
        _fail("padding", '"same"; with "valid", Keras\'s default, states are smaller than frames', settings)
    if _pair(settings["strides"]) != (1, 1):
        _fail("strides", "1; with others states are smaller than frames", settings)
    if _pair(settings["dilation_rate"]) != (1, 1):
        _fail("dilation_rate", "1; Keras dilates the convolution of the input alone, ConvLSTM both", settings)
    for name in ("activation", "recurrent_activation"):
        if settings[name] not in ACTIVATIONS:
            _fail(name, f"one of {ACTIVATIONS}", settings)
    if settings["dropout"] != 0:
        _fail(
            "dropout", "0; ConvLSTM has none of inputs. dropout=0.0 leaves it out, which only training needs", settings
        )
    if settings["stateful"]:
        _fail("stateful", "False; give stateful=False, and pass on the states that ConvLSTM returns", settings)


def _tensor(name: str, value) -> Tensor:
    """A copy, whatever the strides and the byte order of an array."""
    try:
        if hasattr(value, "__array__") and not isinstance(value, Tensor):
            value = value.__array__()
            value = value.astype(value.dtype.newbyteorder("="), order="C")
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"from_keras: {name} must be an array or a tensor of floats ({error})") from None


def _pair(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _unpack(weights) -> tuple[Tensor, Tensor, Tensor | None]:
    if not isinstance(weights, (tuple, list)) or len(weights) not in (2, 3):
        _fail_of_layer(f"{len(weights)} arrays" if isinstance(weights, (tuple, list)) else type(weights).__name__)
    weights = [None if value is None else _tensor(name, value) for name, value in zip(_NAMES, weights)]
    kernel, recurrent_kernel, bias = weights + [None] * (3 - len(weights))
    if kernel is None or recurrent_kernel is None:
        raise ValueError("from_keras: kernel and recurrent_kernel must be arrays, got None")
    if not kernel.is_floating_point():
        raise ValueError(f"from_keras: kernel must be of floats, got {kernel.dtype}")
    shape = tuple(kernel.shape)
    if len(shape) != 4 or shape[3] % 4 or 0 in shape or shape[0] % 2 == 0 or shape[1] % 2 == 0:
        raise ValueError(f"from_keras: kernel must have shape (kh, kw, Cin, 4F), kh and kw odd, got shape {shape}")
    kh, kw, _, rows = shape
    expected = {"recurrent_kernel": (recurrent_kernel, (kh, kw, rows // 4, rows)), "bias": (bias, (rows,))}
    for name, (value, size) in expected.items():
        if value is not None and tuple(value.shape) != size:
            raise ValueError(f"from_keras: {name} must have shape {size}, got shape {tuple(value.shape)}")
    return kernel, recurrent_kernel, bias


def _fail_of_layer(actual: str) -> NoReturn:
    raise ValueError(
        "from_keras: layer must be a built ConvLSTM2D or its weights, [kernel, recurrent_kernel, bias] or without "
        f"bias, got {actual}"
    )


def _fail(name: str, expected: str, settings: dict) -> NoReturn:
    raise ValueError(f"from_keras: {name} must be {expected}, got {settings[name]!r}")
