"""What the temporal part of a model is worth: the model against its spatial part alone, and against shuffled frames.

    python python/experiments/temporal_value.py MODEL VIDEOS [--every N]

MODEL needs decoder "skip": its temporal part adds to the spatial features, so the model is complete without it. Clips
have five frames, as in `predict`; the maps of shuffled clips are put back into order before they are scored. Reported
are max F, MAE and J at the threshold, as in `evaluate`, and steadiness: the mean IoU of the masks of consecutive
frames, the earlier one warped to the later frame by DIS optical flow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from pdb_saliency.data.sets.catalog import open_dataset
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.evaluation.metrics.saliency import SaliencyScores
from pdb_saliency.inference.clips import CLIP_LENGTH
from pdb_saliency.model.saliency import SaliencyModel, upsample_logits
from pdb_saliency.model.weights import load_model
from pdb_saliency.options import THRESHOLD

_FLOW_SIZE = (320, 180)


@torch.inference_mode()
def clip_maps(model: SaliencyModel, frames: list[np.ndarray], how: str, order: np.ndarray) -> np.ndarray:
    """Maps, float32 (T, height, width) at the network's size.

    how: "full", "spatial" (without the temporal part) or "shuffled" (the frames in the order `order`).
    """
    if how == "shuffled":
        return clip_maps(model, [frames[i] for i in order], "full", order)[np.argsort(order)]
    clip = model.input_spec.fitted(*frames[0].shape[:2]).prepare(frames)
    encoded = model.encode(clip)
    if how == "full":
        return model.saliency(encoded, (1, len(frames)), clip.shape[-2:])[0].numpy()
    return torch.sigmoid(upsample_logits(model.head(*encoded), clip.shape[-2:]))[:, 0].numpy()


def steadiness(frames: list[np.ndarray], masks: list[np.ndarray]) -> list[float]:
    """IoU of each mask with the one before, warped. masks: bool, at the frames' sizes."""
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [cv2.cvtColor(cv2.resize(frame, _FLOW_SIZE), cv2.COLOR_BGR2GRAY) for frame in frames]
    small = [cv2.resize(mask.astype(np.float32), _FLOW_SIZE, interpolation=cv2.INTER_AREA) for mask in masks]
    x, y = np.meshgrid(np.arange(_FLOW_SIZE[0], dtype=np.float32), np.arange(_FLOW_SIZE[1], dtype=np.float32))
    values = []
    for t in range(1, len(frames)):
        flow = flow_of.calc(greys[t], greys[t - 1], None)
        carried = cv2.remap(small[t - 1], x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR) >= 0.5
        now = small[t] >= 0.5
        union = (carried | now).sum()
        values.append(float((carried & now).sum() / union) if union else 1.0)
    return values


def score(model: SaliencyModel, folder: Path, every: int, how: str) -> dict[str, float]:
    scores, overlaps, steady = SaliencyScores(THRESHOLD), [], []
    for video in open_dataset(str(folder), None).videos:
        rng, of_video = np.random.default_rng(0), []
        for start in range(0, len(video.frames) - CLIP_LENGTH + 1, CLIP_LENGTH * every):
            frames = [read_frame(path) for path in video.frames[start : start + CLIP_LENGTH]]
            order = rng.permutation(CLIP_LENGTH)
            maps = [model.output_spec(*pair) for pair in zip(clip_maps(model, frames, how, order), frames)]
            steady += steadiness(frames, [m >= THRESHOLD for m in maps])
            for map_, paths in zip(maps, video.masks[start : start + CLIP_LENGTH]):
                if paths:
                    of_video.append(scores.add(map_, read_mask(paths, frames[0].shape[:2])).j)
        overlaps.append(np.mean(of_video))
    result = scores.result()
    return {"max_f": result["max_f"], "mae": result["mae"], "j": np.mean(overlaps), "steadiness": np.mean(steady)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--every", type=int, default=1, help="look at every n-th clip only (default: %(default)s)")
    arguments = parser.parse_args()
    model = load_model(arguments.model).eval()
    if model.config.decoder != "skip":
        parser.error(f"{arguments.model}: expected a model with decoder 'skip', got {model.config.decoder!r}")
    print("| | max F | MAE | J | steadiness |\n|---|---|---|---|---|")
    for how, words in (("full", "the model"), ("shuffled", "frames shuffled"), ("spatial", "spatial part alone")):
        values = score(model, arguments.videos, arguments.every, how)
        print(f"| {words} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")


if __name__ == "__main__":
    main()
