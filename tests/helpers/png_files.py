"""Grey PNG files of every kind, many of which OpenCV cannot write."""

import struct
import zlib

import numpy as np

# Adam7: first row, first column, and their steps, of each pass.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
# A TIFF header and one entry: orientation 6, to be rotated clockwise by 90 degrees.
TURNED = ("eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")


def grey_png(levels, bits, extra=(), interlaced=False):
    """The file's bytes. levels: integers (H, W) below 2**bits. extra: (name, content) of further chunks."""
    height, width = levels.shape
    parts = [levels[y::dy, x::dx] for y, x, dy, dx in _PASSES] if interlaced else [levels]
    pixels = b"".join(_rows(part, bits) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, interlaced)
    chunks = [("IHDR", header), *extra, ("IDAT", zlib.compress(pixels)), ("IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), content) for name, content in chunks)


def _rows(levels, bits):
    """Packed rows, each after a 0 for "no filter"."""
    digits = (levels[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(digits.astype(np.uint8).reshape(len(levels), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
