"""Scoring pairs: every image format reads as decoding in colour reads it, in any number of processes."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from helpers import evaluation_folders as folders
from helpers.png_files import TURNED, grey_png
from pdb_saliency.data.sets.read import read_mask
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.pairs import Pair, find_tasks, open_truth
from pdb_saliency.evaluation.scoring import Rules, read_map, score_pair, score_tasks

HEIGHT, WIDTH = 13, 21


def levels_of(bits):
    """Random levels, with a black and a white area."""
    levels = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH))
    levels[:4], levels[-4:] = 0, 2**bits - 1
    return levels


def soft_map():
    disk = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(disk, (10, 6), 4, 255, -1)
    return cv2.GaussianBlur(disk, (0, 0), 2)


GREYS = {
    "plain": {},
    "interlaced": {"interlaced": True},
    "black is transparent": {"extra": [("tRNS", b"\0\0")]},
    "turned": {"extra": [TURNED]},
    "gamma": {"extra": [("gAMA", struct.pack(">I", 100000))]},
    "significant bits": {"extra": [("sBIT", b"\1")]},
    "background": {"extra": [("bKGD", b"\0\0")]},
}


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", GREYS)
def test_grey_png(tmp_path, kind, bits):
    file = tmp_path / "map.png"
    levels = levels_of(bits)
    file.write_bytes(grey_png(levels, bits, **GREYS[kind]))
    colour = cv2.imread(str(file), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(read_map(file), colour[:, :, 0])
    expected = levels >> 8 if bits == 16 else levels * (255 // (2**bits - 1))
    np.testing.assert_array_equal(read_map(file), np.rot90(expected, -1) if kind == "turned" else expected)
    if bits < 16:  # In 16 bits the levels of a mask are object numbers, which do not fit into 8 bits.
        cv2.imwrite(str(tmp_path / "colour.bmp"), colour)
        np.testing.assert_array_equal(read_mask([file]), read_mask([tmp_path / "colour.bmp"]))


def as_palette(levels):
    """An 8-bit PNG whose palette is the levels of grey."""
    data = grey_png(levels, 8)
    palette = bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
    header = data[12:25] + b"\3" + data[26:29]  # The kind of colour follows the bits.
    crc = struct.pack(">I", zlib.crc32(header))
    chunk = struct.pack(">I", 768) + b"PLTE" + palette + struct.pack(">I", zlib.crc32(b"PLTE" + palette))
    return data[:12] + header + crc + chunk + data[33:]


def encoded(suffix, picture):
    return cv2.imencode(suffix, picture)[1].tobytes()


KINDS = {
    "grey.png": lambda grey: encoded(".png", grey),
    "interlaced.png": lambda grey: grey_png(grey, 8, interlaced=True),
    "deep.png": lambda grey: encoded(".png", grey.astype(np.uint16) * 257),
    "palette.png": as_palette,
    "rgb.png": lambda grey: encoded(".png", cv2.merge([grey] * 3)),
    "rgba.png": lambda grey: encoded(".png", cv2.merge([grey] * 3 + [255 - grey])),
    "deep-rgb.png": lambda grey: encoded(".png", cv2.merge([grey.astype(np.uint16) * 257] * 3)),
    "grey.bmp": lambda grey: encoded(".bmp", grey),
    "grey.tiff": lambda grey: encoded(".tiff", grey),
}


@pytest.mark.parametrize("mask_kind", [kind for kind in KINDS if kind != "palette.png"])
@pytest.mark.parametrize("map_kind", KINDS)
def test_scores_do_not_depend_on_the_kind(tmp_path, map_kind, mask_kind):
    saliency, mask = soft_map(), np.where(soft_map() > 90, np.uint8(255), np.uint8(0))
    results = []
    for one, other in (("grey.png", "grey.png"), (map_kind, mask_kind)):
        files = tmp_path / f"map-{one}", tmp_path / f"mask-{other}"
        for file, kind, picture in zip(files, (one, other), (saliency, mask)):
            file.write_bytes(KINDS[kind](picture))
        results.append(score_pair(Pair("", "x", files[0], (files[1],), True), Rules()))
    expected, scores = results
    assert not scores.resized and (scores.boundary, scores.highest) == (expected.boundary, expected.highest)
    for name, value in vars(expected.frame).items():
        np.testing.assert_array_equal(getattr(scores.frame, name), value, name)


def test_grey_jpeg(tmp_path):
    """One channel and three give the same levels, up to the rounding of the colour transform."""
    for name, picture in {"grey": soft_map(), "colour": cv2.merge([soft_map()] * 3)}.items():
        (tmp_path / f"{name}.jpg").write_bytes(encoded(".jpg", picture))
    grey, colour = (read_map(tmp_path / f"{name}.jpg").astype(int) for name in ("grey", "colour"))
    np.testing.assert_array_equal(grey, cv2.imread(str(tmp_path / "grey.jpg"))[:, :, 0])
    assert np.abs(grey - colour).max() <= 1


def test_a_map_in_colours_is_refused(tmp_path):
    coloured = cv2.merge([soft_map(), soft_map(), 255 - soft_map()])
    for suffix in (".png", ".bmp"):
        file = tmp_path / f"map{suffix}"
        file.write_bytes(encoded(suffix, coloured))
        with pytest.raises(InputError, match="must be grey"):
            read_map(file)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("damage", ["cut", "pixels", "end"])
def test_a_damaged_grey_png_is_an_error(tmp_path, bits, damage):
    data = grey_png(levels_of(bits), bits)
    start = data.index(b"IDAT") + 4
    data = {
        "cut": data[: start + 20],
        "pixels": data[:start] + bytes(len(data) - start - 16) + data[-16:],  # not a zlib stream any more
        "end": data[:-12],
    }[damage]
    file = tmp_path / "map.png"
    file.write_bytes(data)
    with pytest.raises(InputError, match="does not decode"):
        read_map(file)


def test_processes_give_the_same(tmp_path):
    lengths = {f"s{number}": 8 for number in range(24)}  # Enough frames for processes to be started.
    folders.write_sequences(tmp_path / "many", lambda number: folders.mask_of(number % 5), lengths)
    folders.write_sequences(tmp_path / "maps", folders.map_of, lengths)
    tasks = find_tasks(tmp_path / "maps", [open_truth(str(tmp_path / "many"))])
    alone, together = (score_tasks(tasks, Rules(), workers)[0] for workers in (1, 2))
    for name, value in vars(alone.total).items():
        assert np.array_equal(value, getattr(together.total, name)), name
    assert {name: part.j_mean for name, part in alone.sequences.items()} == {
        name: part.j_mean for name, part in together.sequences.items()
    }
