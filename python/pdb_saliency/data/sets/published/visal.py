"""ViSal: ViSal/ViSal/SEQUENCE, and ViSal/GroundTruth with the masks of all sequences."""

from __future__ import annotations

from .known_set import KnownSet, video_folders

VISAL = KnownSet(("visal",), "ViSal/ViSal/SEQUENCE and ViSal/GroundTruth", video_folders("ViSal", "GroundTruth"))
