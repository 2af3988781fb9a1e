"""Folders of maps and masks, and the command `evaluate`, which scores them."""

import json

import cv2
import numpy as np

from pdb_saliency import cli

SCORES = {"mae", "max_f", "s", "e_max", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"}


def mask_of(number, height=48, width=64):
    """A square that moves to the right by 3 pixels a frame."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 3 * number : 3 * number + 20] = 255
    return mask


def map_of(number):
    return cv2.GaussianBlur(mask_of(number), (0, 0), 4)


def write(folder, pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), picture)


def write_sequences(root, make, lengths):
    for name, count in lengths.items():
        write(root / name, {f"{number:05d}": make(number) for number in range(count)})


def run(*arguments):
    return cli.main(["evaluate", *map(str, arguments)])


def scores_of(*arguments, folder):
    target = folder / "scores.json"
    assert run(*arguments, "--json", target) == 0
    return json.loads(target.read_text())


def fails(capsys, *arguments):
    """Runs `evaluate`, which must fail, and returns the single line on stderr."""
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err
