"""Scores of a model during training: it runs on annotated videos, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pdb_saliency.data.sets.items import Video
from pdb_saliency.data.sets.read import read_frame, read_mask
from pdb_saliency.errors import InputError
from pdb_saliency.inference.engine import Engine, authors_engine
from pdb_saliency.options import CLIP_LENGTH, THRESHOLD
from pdb_saliency.video.frame import Frame

from .metrics.davis import scored_frames
from .metrics.saliency import SaliencyScores


@dataclass
class VideoScores:
    """The scores of one video. frames: sums over its scored frames. overlaps: J of the frames that count for it."""

    frames: SaliencyScores
    overlaps: list[float] = field(default_factory=list)


def validate(
    model: nn.Module,
    videos: Sequence[Video],
    device: torch.device,
    *,
    threshold: float = THRESHOLD,
    clips_every: int = 1,
) -> dict[str, float]:
    """Scores of `model` on the annotated frames of `videos`, which it sees in clips of five, as in `predict`.

    model: a SaliencyModel on `device`. It is in eval mode meanwhile, and in its former mode afterwards.
    clips_every: use every n-th clip only.

    Returns frames (how many were scored), mae, max_f, s, e_max (see `SaliencyScores`; means over all frames), and
    j_mean: the intersection over union at `threshold` without the first and last annotated frame of each video, mean
    over videos (absent if no frame counts for it).
    Raises InputError if a file cannot be read or no frame is annotated, SaliencyError if the model fails.
    """
    return combine(score_videos(model, videos, device, threshold=threshold, clips_every=clips_every))


def score_videos(
    model: nn.Module,
    videos: Sequence[Video],
    device: torch.device,
    *,
    threshold: float = THRESHOLD,
    clips_every: int = 1,
) -> list[VideoScores]:
    """The scores of each video, which `combine` averages, so that several processes can share the videos."""
    if clips_every < 1:
        raise ValueError(f"clips_every must be at least 1, got {clips_every}")
    was_training = model.training
    model.eval()
    try:
        engine = authors_engine(model, device)
        return [_score_video(engine, video, threshold, clips_every) for video in videos]
    finally:
        model.train(was_training)


def combine(videos: Sequence[VideoScores]) -> dict[str, float]:
    """The scores that `validate` returns. They depend on the order of the videos, not on which process scored them."""
    total = SaliencyScores()
    for video in videos:
        total.merge(video.frames)
    if not total.frames:
        raise InputError(
            f"validation needs annotated frames, but the chosen clips of the {len(videos)} videos have none"
        )
    result = total.result()
    per_video = [np.mean(video.overlaps) for video in videos if video.overlaps]
    scores = {name: result[name] for name in ("frames", "mae", "max_f", "s", "e_max")}
    return scores | ({"j_mean": float(np.mean(per_video))} if per_video else {})


def _score_video(engine: Engine, video: Video, threshold: float, clips_every: int) -> VideoScores:
    scores = VideoScores(SaliencyScores(threshold))
    for saliency, mask, counts in scored_maps(engine, video, clips_every):
        frame_scores = scores.frames.add(saliency, mask)
        if counts:
            scores.overlaps.append(frame_scores.j)
    return scores


def scored_maps(engine: Engine, video: Video, clips_every: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """(saliency, mask, counts) of each scored frame of `video`: float32 (H, W) in [0, 1]; uint8 (H, W), 0 or 255;
    whether it counts for J and F.
    """
    annotated = [index for index, paths in enumerate(video.masks) if paths]
    counted = set(annotated[scored_frames(len(annotated))])
    looked_at = annotated_clips(video, clips_every)
    scored = chosen_frames(video, clips_every)
    frames = (Frame(str(index), read_frame(video.frames[index])) for index in looked_at)
    for index, (frame, saliency) in zip(looked_at, engine.maps(frames)):
        if video.masks[index] and index in scored:
            yield saliency, read_mask(video.masks[index], frame.image.shape[:2]), index in counted


def annotated_clips(video: Video, every: int = 1) -> list[int]:
    """Indices of the frames that the model must see so that every n-th clip with an annotated frame is as in `predict`.

    The last clip of a video may be too short. `predict` fills it up with frames of the clip before it, which is then
    included.
    """
    chosen, last = chosen_frames(video, every), len(video.frames) - 1
    if last in chosen and len(video.frames) % CLIP_LENGTH:
        start = last - last % CLIP_LENGTH
        chosen |= set(range(max(start - CLIP_LENGTH, 0), start))
    return sorted(chosen)


def chosen_frames(video: Video, every: int = 1) -> set[int]:
    """Indices of the frames in every n-th of the clips with an annotated frame."""
    count = len(video.frames)
    starts = [start for start in range(0, count, CLIP_LENGTH) if any(video.masks[start : start + CLIP_LENGTH])]
    return {index for start in starts[::every] for index in range(start, min(start + CLIP_LENGTH, count))}
