"""Test sequences and checkpoints of tiny models, as `reproduce` and `calibrate` find them."""

import dataclasses
import json

import cv2
import numpy as np
import torch

from helpers.models import tiny, trained_like
from pdb_saliency import SaliencyModel, cli, save_model
from pdb_saliency.model.config import LITE

TINY = dataclasses.replace(LITE, input_size=(33, 33), pdc_channels=4, reduced_channels=4, hidden_channels=4)


def frame_of(number):
    frame = np.full((40, 60, 3), (90, 120, 60), np.uint8)
    cv2.circle(frame, (15 + 3 * number, 20), 9, (40, 60, 220), -1)
    return frame


def mask_of(number):
    mask = np.zeros((40, 60), np.uint8)
    cv2.circle(mask, (15 + 3 * number, 20), 9, 255, -1)
    return mask


def save(path, seed, **options):
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = SaliencyModel(TINY, **options)
    model.untrained = None
    save_model(model, path)


def run(world, *arguments):
    standard = ["--data-root", world / "data", "--checkpoints", world / "runs", "-o", world / "out", "--workers", 1]
    return cli.main(["reproduce", *map(str, [*standard, "--no-crf", "--figures", "none", *arguments])])


def report(world):
    return json.loads((world / "out/tables.json").read_text())


def disk_model():
    """A model that finds the disk of `painted` salient.

    With these random weights it is less salient than the background: the last layer is negated, and scaled so that the
    saliency spreads over the range.
    """
    model = trained_like(tiny(backbone="efficientnet_lite0", decoder="skip")).float()
    with torch.no_grad():
        model.head.predict.weight.mul_(-5)
    return model
