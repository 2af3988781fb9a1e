"""What data sets consist of: paths of files, which are opened elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Still:
    """A picture and the mask of its salient objects. name: unique in its data set."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Video:
    """The frames of one sequence, in order of time.

    masks: for each frame the files whose union is the foreground (some data sets have one for each object); empty for a
        frame that is not annotated.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[tuple[Path, ...], ...]


@dataclass(frozen=True)
class Dataset:
    """A set of stills, of videos, or of both."""

    name: str
    stills: tuple[Still, ...] = ()
    videos: tuple[Video, ...] = ()

    @property
    def annotated_frames(self) -> int:
        """The number of video frames that have a mask."""
        return sum(bool(masks) for video in self.videos for masks in video.masks)
