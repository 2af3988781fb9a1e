"""Which clips a run is trained on: from data sets and kinds of clips to weighted sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.data.clips.camera import CameraClips
from pdb_saliency.data.clips.composite import CutoutClips
from pdb_saliency.data.clips.cutouts import Cutout, cutouts_of, load_cutouts
from pdb_saliency.data.clips.recorded import StillCopies, VideoClips
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError
from pdb_saliency.options import CLIP_KINDS

from .clip import ClipSource


@dataclass(frozen=True)
class ClipKind:
    """How one of options.CLIP_KINDS is made of a data set.

    make: the source of its clips, from a data set that has what the kind needs, and the run's cut-outs.
    from_videos: it needs annotated video frames, not stills.
    """

    make: Callable[[Dataset, Sequence[Cutout]], ClipSource]
    from_videos: bool = False

    def count(self, dataset: Dataset) -> int:
        """The number of pictures of the data set that clips of this kind are made of."""
        return dataset.annotated_frames if self.from_videos else len(dataset.stills)


KINDS: dict[str, ClipKind] = {
    "copies": ClipKind(lambda dataset, _: StillCopies(dataset.stills)),
    "camera": ClipKind(lambda dataset, _: CameraClips(dataset.stills)),
    "cutouts": ClipKind(lambda dataset, cutouts: CutoutClips(cutouts, dataset.stills)),
    "video": ClipKind(lambda dataset, _: VideoClips(dataset.videos), from_videos=True),
}


@dataclass(frozen=True)
class Mix:
    """sources, weights: for SampleStream.

    words: what is trained on, an entry for each source and one for a folder of cut-outs; two mixes differ in them.
    """

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

    sets: data sets with weights; each picture and each annotated frame of a set counts `weight` times.
    shares: kind of clip, of CLIP_KINDS -> share of the samples; within a kind, the sets share in proportion to their
        weighted pictures. None: every still and every annotated video frame alike, as in the paper's first stage.
    cutout_folder: folder of RGBA pictures that join the cut-outs made of the stills.
    required: refuse kinds that `sets` has no pictures for; otherwise they are left out.
    Raises InputError.
    """
    if cutout_folder and (shares is None or not shares.get("cutouts")):
        raise InputError(f"--cutouts {cutout_folder} is for clips of kind cutouts, and --clips has none of them")
    kinds = ("copies", "video") if shares is None else tuple(kind for kind in CLIP_KINDS if shares.get(kind))
    cutouts = _cutouts(sets, cutout_folder) if "cutouts" in kinds and any(dataset.stills for dataset, _ in sets) else []
    sources, weights, words = [], [], []
    for name in kinds:
        kind = KINDS[name]
        pictures = [(dataset, weight * kind.count(dataset)) for dataset, weight in sets]
        pictures = [(dataset, count) for dataset, count in pictures if count > 0]
        if not pictures and required and shares is not None:
            what = "videos" if kind.from_videos else "stills"
            raise InputError(f"clips of kind {name} need {what}, and the data sets to train on have none")
        total = sum(count for _, count in pictures)
        for dataset, count in pictures:
            weight = count if shares is None else shares[name] * count / total
            number = f"{kind.count(dataset)} pictures, weight {weight:.6g}"
            sources.append(kind.make(dataset, cutouts))
            weights.append(weight)
            words.append(f"{name} of {dataset.name}: {number}, {_digest(dataset)}")
    if not sources:
        raise InputError("nothing to train on: the data sets have no annotated pictures for these kinds of clips")
    if cutout_folder and cutouts:
        words.append(f"cut-outs: {len(cutouts)}")
    return Mix(sources, weights, tuple(words))


def _cutouts(sets: Sequence[tuple[Dataset, float]], folder: Path | None) -> list[Cutout]:
    """The cut-outs of all stills, or of every n-th still of a set with weight 1/n, and those in the folder."""
    own = cutouts_of(
        [still for dataset, weight in sets if weight for still in dataset.stills[:: max(round(1 / weight), 1)]]
    )
    return own + (load_cutouts(folder) if folder else [])


def _digest(dataset: Dataset) -> str:
    """Digest of the names and sizes of all files: the same for a copy in another folder, different for other files."""
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
