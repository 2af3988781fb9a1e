"""Fixtures for the tests of several commands."""

import cv2
import pytest

from helpers import evaluation_folders as folders
from helpers.checkpoints import frame_of, mask_of, save
from helpers.films import grey_frame, write_frames


@pytest.fixture
def frames(tmp_path):
    return str(write_frames(tmp_path / "in", [grey_frame(9)] * 2))


@pytest.fixture
def world(tmp_path):
    """Two of DAVIS's test sequences and one of its training set, and three checkpoints."""
    for folder, sequences in {"part": ("blackswan", "camel"), "training": ("bear",)}.items():
        for sequence in sequences:
            for kind, make in (("JPEGImages", frame_of), ("Annotations", mask_of)):
                place = tmp_path / "data" / folder / kind / sequence
                place.mkdir(parents=True)
                for number in range(6):
                    cv2.imwrite(str(place / f"{number:05d}.{'jpg' if kind == 'JPEGImages' else 'png'}"), make(number))
    for seed, (name, options) in enumerate({"one": {}, "two": {}, "spatial": {"temporal": "none"}}.items()):
        save(tmp_path / "runs" / name / "model.safetensors", seed, **options)
    return tmp_path


@pytest.fixture
def video(tmp_path):
    """Masks and maps of two sequences."""
    folders.write_sequences(tmp_path / "masks", folders.mask_of, {"long": 9, "short": 4})
    folders.write_sequences(tmp_path / "mine", folders.map_of, {"long": 9, "short": 4})
    return tmp_path
