"""The paper's test sets, and how they are found on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.data.sets.catalog import find_datasets, open_dataset
from pdb_saliency.data.sets.items import Dataset, Video
from pdb_saliency.errors import InputError


@dataclass(frozen=True)
class PaperSet:
    """A test set of §4.

    known_as: its name for `open_dataset`. sequences, frames: how many are annotated; None if the paper does not say.
    members: the names of its sequences, if a part of it can be recognised by them; else empty.
    """

    name: str
    known_as: str
    sequences: int
    frames: int | None = None
    members: frozenset[str] = frozenset()

    def describe(self, dataset: Dataset) -> str:
        """How much of the set `dataset` contains, in words."""
        videos = [video for video in dataset.videos if any(video.masks)]
        frames = sum(bool(masks) for video in videos for masks in video.masks)
        if len(videos) == self.sequences and frames == (self.frames or frames):
            return f"all {self.sequences} sequences, {frames} annotated frames"
        of_frames = f" of {self.frames}" if self.frames else ""
        return f"only {len(videos)} of {self.sequences} sequences, {frames}{of_frames} annotated frames"


_DAVIS_TEST = (
    "blackswan,bmx-trees,breakdance,camel,car-roundabout,car-shadow,cows,dance-twirl,dog,drift-chicane,drift-straight,"
    "goat,horsejump-high,kite-surf,libby,motocross-jump,paragliding-launch,parkour,scooter-black,soapbox"
)
PAPER_SETS = {
    "DAVIS": PaperSet("DAVIS", "davis-2016:val", 20, 1376, frozenset(_DAVIS_TEST.split(","))),
    "FBMS": PaperSet("FBMS", "fbms:test", 30),
    "ViSal": PaperSet("ViSal", "visal", 17, 193),
}


def find_paper_sets(data_root: Path | None, places: dict[str, str]) -> dict[str, Dataset]:
    """The test sets that are found: name -> data set, in the paper's order.

    places: name -> path or name, as for `open_dataset`, of test sets that are not searched for below data_root. A
    folder below data_root that holds only sequences of a test set counts as a part of it.
    Raises InputError for an unknown name, for a place that is no data set or holds anything outside the test set, or if
    no test set is found.
    """
    unknown = set(places) - set(PAPER_SETS)
    if unknown:
        raise InputError(f"the paper's test sets are {', '.join(PAPER_SETS)}, got {', '.join(sorted(unknown))}")
    found = {name: open_dataset(place, data_root) for name, place in places.items()}
    for name, dataset in found.items():
        _must_belong(PAPER_SETS[name], places[name], dataset)
    others = list(find_datasets(data_root).values()) if data_root else []
    for name, paper_set in PAPER_SETS.items():
        dataset = None if name in found or not data_root else _whole(paper_set, data_root) or _part(paper_set, others)
        if dataset:
            found[name] = dataset
    found = {name: found[name] for name in PAPER_SETS if name in found and any(map(_is_annotated, found[name].videos))}
    if not found:
        expected = ", ".join(paper_set.known_as for paper_set in PAPER_SETS.values())
        searched = ", ".join(map(str, [*([data_root] if data_root else []), *places.values()]))
        raise InputError(
            f"{searched}: none of the paper's test sets is there; expected {expected}, or a part of the one of DAVIS"
        )
    return found


def _whole(paper_set: PaperSet, data_root: Path) -> Dataset | None:
    try:
        return open_dataset(paper_set.known_as, data_root)
    except InputError:
        return None


def _part(paper_set: PaperSet, others: Iterable[Dataset]) -> Dataset | None:
    parts = [dataset for dataset in others if dataset.videos and {v.name for v in dataset.videos} <= paper_set.members]
    return max(parts, key=lambda dataset: len(dataset.videos), default=None)


def _must_belong(paper_set: PaperSet, place: str, dataset: Dataset) -> None:
    """Raises InputError if a place holds more than the test set, so that no training video passes for a test video."""
    strangers = [video.name for video in dataset.videos if paper_set.members and video.name not in paper_set.members]
    wanted = f"expected (a part of) {paper_set.known_as}, {paper_set.sequences} sequences"
    if strangers:
        raise InputError(f"{paper_set.name}={place}: {strangers[0]} is not among the paper's test videos; {wanted}")
    if len(dataset.videos) > paper_set.sequences:
        raise InputError(f"{paper_set.name}={place}: {wanted}, got {len(dataset.videos)}")


def _is_annotated(video: Video) -> bool:
    return any(video.masks)
