"""SegTrack v2: SegTrackv2/JPEGImages/SEQUENCE and GroundTruth/SEQUENCE, or GroundTruth/SEQUENCE/1, 2, ... by object."""

from __future__ import annotations

from .known_set import KnownSet, video_folders

SEGTRACK_V2 = KnownSet(
    ("segtrackv2", "segtrack2"),
    "SegTrackv2/JPEGImages/SEQUENCE and SegTrackv2/GroundTruth/SEQUENCE",
    video_folders("JPEGImages", "GroundTruth"),
)
