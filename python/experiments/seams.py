"""Seams between clips: `python python/experiments/seams.py DATA [--frames N]`.

DATA: JPEGImages/<sequence>/*.jpg and Annotations/<sequence>/*.png, as in DAVIS. Printed is the mean |difference|
between the maps of successive frames, over the pairs that a border of the authors' non-overlapping clips of 5
separates, and over
all other pairs: a seam makes the first larger than the second. The pairs, and so the motion in them, are the same for
every way of dividing the video into clips. Also printed is the mean absolute error against the masks, which should not
become worse. Every frame is encoded only once.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from pdb_saliency.inference.clips import blended
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.weights import load_model
from pdb_saliency.options import CLIP_LENGTH
from pdb_saliency.video.pictures import read_picture
from pdb_saliency.video.source import open_source


def in_clips(length, overlap):
    def maps(engine, encoded):
        items = enumerate(encoded)
        return [map_.numpy() for _, map_ in blended(items, lambda clip: engine.saliency(clip.frames), length, overlap)]

    return maps


def causal(engine, encoded):
    maps, state = [], None
    for one in encoded:
        saliency, state = engine.step(one, state)
        maps.append(saliency.numpy())
    return maps


WAYS = {
    "clips of 5 (the authors')": in_clips(5, 0),
    **{f"clips of 5, overlap {overlap}": in_clips(5, overlap) for overlap in (1, 2, 3, 4)},
    "clips of 10": in_clips(10, 0),
    "clips of 10, overlap 5": in_clips(10, 5),
    "one clip": lambda engine, encoded: list(engine.saliency(encoded).numpy()),
    "causal": causal,
}


def differences(maps):
    """Mean |difference| of each pair of successive maps, and whether a border of the authors' clips lies between."""
    values = [np.abs(b - a).mean() for a, b in zip(maps, maps[1:])]
    return np.array(values), np.arange(1, len(maps)) % CLIP_LENGTH == 0


def absolute_error(map_, path):
    mask = cv2.resize(read_picture(path)[:, :, 0], map_.shape[::-1], interpolation=cv2.INTER_AREA) / 255
    return np.abs(map_ - mask).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--frames", type=int, default=10**6, help="first frames of each sequence (default: all)")
    parser.add_argument("--weights", help="as for predict (default: the model that comes with the package)")
    arguments = parser.parse_args()
    engine = Engine(load_model(arguments.weights), torch.device("cpu"))
    found = {way: ([], [], []) for way in WAYS}  # Differences at borders, elsewhere, and absolute errors.
    for folder in sorted((arguments.data / "JPEGImages").iterdir()):
        frames = list(zip(range(arguments.frames), open_source(str(folder))))
        spec = engine.input_spec.fitted(*frames[0][1].image.shape[:2])
        encoded = [engine.encode([spec.resize(frame.image)])[0] for _, frame in frames]
        masks = [arguments.data / "Annotations" / folder.name / f"{frame.name}.png" for _, frame in frames]
        for way, maps_of in WAYS.items():
            maps = maps_of(engine, encoded)
            values, at_border = differences(maps)
            found[way][0].extend(values[at_border])
            found[way][1].extend(values[~at_border])
            found[way][2].extend(absolute_error(map_, mask) for map_, mask in zip(maps, masks) if mask.exists())
        print(folder.name, len(frames), "frames", flush=True)
    print(f"{'':<28} {'at borders':>10} {'elsewhere':>10} {'ratio':>6} {'MAE':>7}   (x 1000, except the ratio)")
    for way, (border, inside, errors) in found.items():
        border, inside, error = (float(np.mean(values)) for values in (border, inside, errors))
        print(f"{way:<28} {1e3 * border:10.3f} {1e3 * inside:10.3f} {border / inside:6.3f} {1e3 * error:7.2f}")


if __name__ == "__main__":
    main()
