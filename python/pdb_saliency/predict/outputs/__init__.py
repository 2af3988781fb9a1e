"""What `predict` can write: the table of all kinds of results.

A new kind is one line in `OUTPUTS` and, unless one of the classes named there makes it already, one class as the
protocol `Output` in writer.py describes it. Everything else reads the table: the writer, --resume, the help, the error
message and the shell completion of --save.

This file needs the standard library alone, because --help reads it too.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

# The forms of results.
PICTURES = "pictures"  # a folder with one file for each frame, named after it
VIDEO = "video"  # one file for the whole run
RECORD = "record"  # one file for the whole run


@dataclass(frozen=True)
class OutputKind:
    """One kind of result.

    name: in the list of --save. form: PICTURES, VIDEO or RECORD. place: the name of its folder or file in the output
    folder. made_by: "module:Class", an `Output`; ".module" lies in this folder. help: what is in it, for --help.
    part: the attribute of `Result` that pictures and videos show. needs: a program or package that is not always
    installed. suffix: of each frame's file, for PICTURES; `PictureOutput` writes PNG, other formats need another class.
    """

    name: str
    form: str
    place: str
    made_by: str
    help: str
    part: str = ""
    needs: str = ""
    suffix: str = ".png"

    @property
    def files(self) -> str:
        """As the help names it: "maps/NAME.png", where NAME is the frame's, or "coco.json"."""
        return f"{self.place}/NAME{self.suffix}" if self.form == PICTURES else self.place

    def output_class(self) -> Any:
        """The class that writes this kind; imports its module."""
        module, name = self.made_by.split(":")
        return getattr(importlib.import_module(module, __name__), name)


def _pictures(name: str, part: str, help: str) -> OutputKind:
    return OutputKind(name, PICTURES, name, ".pictures:PictureOutput", help, part)


def _video(name: str, part: str, file: str, help: str, needs: str = "") -> OutputKind:
    return OutputKind(name, VIDEO, file, ".videos:VideoOutput", help, part, needs)


def _record(name: str, file: str, made_by: str, help: str, needs: str = "") -> OutputKind:
    return OutputKind(name, RECORD, file, made_by, help, needs=needs)


_OUTPUTS = (  # In the order of the help.
    _pictures("maps", "map", "saliency 0..1 as grey 0..255 (the default)"),
    _pictures("masks", "mask", "white where saliency reaches the threshold"),
    _pictures("overlay", "overlay", "the frame, tinted red where salient, the mask's outline in yellow"),
    _pictures("cutout", "cutout", "the object on a transparent background"),
    _pictures("side", "side", "frame, map and overlay in a row"),
    _video("video", "overlay", "overlay.mp4", "the overlay at the source's frame rate (24 for pictures)"),
    _video("side-video", "side", "side.mp4", "frame, map and overlay in a row"),
    _video("cutout-webm", "cutout", "cutout.webm", "VP9 with alpha, for the web", "ffmpeg"),
    _video("cutout-prores", "cutout", "cutout.mov", "ProRes 4444 with alpha, for editing", "ffmpeg"),
    _record("json", "frames.jsonl", ".records:LinesOutput", "a line per frame: area, box, centroid, confidence"),
    _record("coco", "coco.json", ".records:CocoOutput", "the masks as COCO run lengths", "the extra `coco`"),
    _record("report", "report.html", ".report:ReportOutput", "a page to look through the results, for any browser"),
)

OUTPUTS: dict[str, OutputKind] = {kind.name: kind for kind in _OUTPUTS}
