"""A writer of .caffemodel files that shares no code with the reader, and the released network with random weights."""

from __future__ import annotations

import numpy as np


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def key(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def message(number: int, payload: bytes) -> bytes:
    return key(number, 2) + varint(len(payload)) + payload


def blob(array: np.ndarray, *, packed=True, double=False, legacy=False) -> bytes:
    """BlobProto: shape = 7 (or num, channels, height, width = 1-4), data = 5, double_data = 8; and a diff to ignore."""
    if legacy:
        dims = (1,) * (4 - array.ndim) + array.shape
        out = b"".join(key(index, 0) + varint(size) for index, size in enumerate(dims, 1))
    else:
        out = message(7, message(1, b"".join(map(varint, array.shape))))
    number, dtype, wire = (8, "<f8", 1) if double else (5, "<f4", 5)
    data = array.astype(dtype).ravel()
    if packed:
        return out + message(number, data.tobytes()) + message(6, b"\0\0\0\0")
    return out + b"".join(key(number, wire) + value.tobytes() for value in data) + key(6, 5) + b"\0\0\0\0"


def net(layers, *, v1=False, **form) -> bytes:
    """NetParameter of [(name, [arrays])]: layer = 100 (name 1, type 2, blobs 7), or V1 layers = 2 (name 4, blobs 6)."""
    out = message(1, b"test net") + message(100, message(1, b"data") + message(2, b"Input"))
    for name, arrays in layers:
        blobs = [message(6 if v1 else 7, blob(array, **form)) for array in arrays]
        if v1:
            out += message(2, message(2, b"bottom") + message(4, name.encode()) + key(5, 0) + b"\x04" + b"".join(blobs))
        else:
            out += message(100, message(1, name.encode()) + message(2, b"Any") + b"".join(blobs))
    return out + message(100, message(1, b"silence") + message(2, b"Silence"))


def released_layers(width=2, pdc=3, reduced=5, hidden=4, features=(3, 4), seed=0) -> list[tuple[str, list[np.ndarray]]]:
    """Every layer with weights of the released network, in file order."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.normal(0, 0.3, shape).astype(np.float32)

    layers = []

    def convolution(name, channels, in_channels, kernel, batch_norm=None):
        positive = random.uniform(0.5, 2, (1, channels, 1, 1)).astype(np.float32)
        statistics = [normal(1, channels, 1, 1) for _ in range(3)]
        layers.append((name, [normal(channels, in_channels, kernel, kernel)]))
        layers.append((batch_norm or f"{name}/bn", [*statistics, positive]))

    convolution("conv1_1_3x3_s2", width, 3, 3)
    convolution("conv1_2_3x3", width, width, 3)
    convolution("conv1_3_3x3", 2 * width, width, 3)
    channels = 2 * width
    for stage, blocks, inner in ((2, 3, width), (3, 4, 2 * width), (4, 6, 4 * width), (5, 3, 8 * width)):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_{block}"
            convolution(f"{name}_1x1_reduce", inner, channels, 1)
            convolution(f"{name}_3x3", inner, inner, 3)
            convolution(f"{name}_1x1_increase", 4 * inner, inner, 1)
            if block == 1:
                convolution(f"{name}_1x1_proj", 4 * inner, channels, 1)
            channels = 4 * inner
    for dilation in (16, 8, 4, 2):
        convolution(f"conv5_3_d{dilation}_conv", pdc, channels, 3)
    convolution("conv5_4_", reduced, channels + 4 * pdc, 1, batch_norm="conv5_4/bn_")
    for number in (1, 2, 3, 4):
        dummy = np.full(1, 7.25, np.float32)
        weight_x = normal(4 * hidden, reduced if number < 3 else hidden, 3, 3)
        weights = [weight_x, dummy, dummy, normal(4 * hidden, hidden, 3, 3), normal(4 * hidden)]
        layers.append((f"encode{number}", [*weights, *(normal(*features) for _ in range(3)), dummy, dummy]))
    layers.append(("conv7", [normal(2, 2 * hidden, 1, 1), normal(2)]))
    return layers
