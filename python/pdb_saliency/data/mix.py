"""Which clips a run is made of: from data sets and kinds of clips to weighted sources."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.data.clips.camera import CameraClips
from pdb_saliency.data.clips.composite import CutoutClips
from pdb_saliency.data.clips.cutouts import Cutout, cutouts_of, load_cutouts
from pdb_saliency.data.clips.recorded import StillCopies, VideoClips
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError

from .clip import ClipSource

# The paper's are copies of a still and true video.
CLIP_KINDS = ("copies", "camera", "cutouts", "video")


@dataclass(frozen=True)
class Mix:
    """sources and weights: for SampleStream. words: what is trained on, one entry a source; it tells two mixes apart."""

    sources: list[ClipSource]
    weights: list[float]
    words: tuple[str, ...]


def mix_clips(
    sets: Sequence[tuple[Dataset, float]],
    shares: Mapping[str, float] | None,
    cutout_folder: Path | None = None,
    required: bool = True,
) -> Mix:
    """The sources of a run.

    sets: data sets with weights; a picture or annotated frame of a set counts `weight` times.
    shares: kind of clip -> share of the samples, of CLIP_KINDS; within a kind, sets share by their counted pictures. None:
        stills and annotated video frames alike, each once, as the paper's first stage has them.
    cutout_folder: RGBA pictures that join the cut-outs made of the stills. required: refuse kinds that `sets` has no
        pictures for; else leave them out.
    Raises InputError.
    """
    if cutout_folder and (shares is None or not shares.get("cutouts")):
        raise InputError(f"--cutouts {cutout_folder} is for clips of kind cutouts, and --clips has none of them")
    kinds = ("copies", "video") if shares is None else tuple(kind for kind in CLIP_KINDS if shares.get(kind))
    cutouts = _cutouts(sets, cutout_folder) if "cutouts" in kinds and any(dataset.stills for dataset, _ in sets) else []
    mix = Mix([], [], ())
    for kind in kinds:
        pictures = [
            (dataset, weight * _count(dataset, kind)) for dataset, weight in sets if weight * _count(dataset, kind) > 0
        ]
        if not pictures and required and shares is not None:
            what = "videos" if kind == "video" else "stills"
            raise InputError(f"clips of kind {kind} need {what}, and the data sets to train on have none")
        total = sum(count for _, count in pictures)
        for dataset, count in pictures:
            weight = count if shares is None else shares[kind] * count / total
            words = (
                f"{kind} of {dataset.name}: {_count(dataset, kind)} pictures, weight {weight:.6g}, {_digest(dataset)}"
            )
            mix = Mix([*mix.sources, _source(kind, dataset, cutouts)], [*mix.weights, weight], (*mix.words, words))
    if not mix.sources:
        raise InputError(
            "there is nothing to train on: the data sets have no annotated pictures of the kinds asked for"
        )
    if cutout_folder and cutouts:
        mix = Mix(mix.sources, mix.weights, (*mix.words, f"cut-outs: {len(cutouts)}"))
    return mix


def _source(kind: str, dataset: Dataset, cutouts: list[Cutout]) -> ClipSource:
    if kind == "video":
        return VideoClips(dataset.videos)
    if kind == "camera":
        return CameraClips(dataset.stills)
    return CutoutClips(cutouts, dataset.stills) if kind == "cutouts" else StillCopies(dataset.stills)


def _cutouts(sets: Sequence[tuple[Dataset, float]], folder: Path | None) -> list[Cutout]:
    """Of a set with weight w below 1 every 1/w-th still."""
    own = cutouts_of(
        [still for dataset, weight in sets if weight for still in dataset.stills[:: max(round(1 / weight), 1)]]
    )
    return own + (load_cutouts(folder) if folder else [])


def _count(dataset: Dataset, kind: str) -> int:
    if kind == "video":
        return sum(bool(masks) for video in dataset.videos for masks in video.masks)
    return len(dataset.stills)


def _digest(dataset: Dataset) -> str:
    """Of names and sizes of all files: the same set in another folder is the same, with another file it is not."""
    content = hashlib.sha256()
    files = [(still.name, still.image, (still.mask,)) for still in dataset.stills]
    for video in dataset.videos:
        files += [(f"{video.name}/{frame.name}", frame, masks) for frame, masks in zip(video.frames, video.masks)]
    for name, image, masks in files:
        sizes = [_size(path) for path in (image, *masks)]
        content.update(f"{name} {sizes}\n".encode("utf-8", "surrogateescape"))
    return content.hexdigest()[:8]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
