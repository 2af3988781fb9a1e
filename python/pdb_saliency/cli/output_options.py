"""What `predict` writes and how: the options. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
import os

from pdb_saliency.options import KINDS, THRESHOLD

from .arguments import add_output, kinds_list, probability

HELP = """\
  --save maps          OUT/maps/NAME.png: saliency 0..1 as grey 0..255 (the
                       default)
  --save masks         OUT/masks/NAME.png: white where saliency reaches the
                       threshold
  --save overlay       OUT/overlay/NAME.png: the frame, tinted red where
                       salient, the mask's outline in yellow
  --save cutout        OUT/cutout/NAME.png: the object with alpha
  --save side          OUT/side/NAME.png: frame, map and overlay in a row
  --save video         OUT/overlay.mp4: the overlay at the source's frame rate
                       (24 for pictures, whose first one sets the size)
  --save side-video    OUT/side.mp4: frame, map and overlay in a row
  --save cutout-webm   OUT/cutout.webm: VP9 with alpha, for the web (ffmpeg)
  --save cutout-prores OUT/cutout.mov: ProRes 4444, for editing (ffmpeg)
  --save json          OUT/frames.jsonl: a line for each frame, with area, box,
                       centroid and mean confidence of the mask
  --save coco          OUT/coco.json: the masks as COCO run lengths (the extra
                       `coco`)
  --save report        OUT/report.html: a page to look through the results,
                       one file, for any browser
"""


def add_output_options(parser: argparse.ArgumentParser) -> None:
    add_output(parser, required=True, help="folder for the results; made if absent")
    save = parser.add_argument(
        "--save",
        type=kinds_list,
        default=["maps"],
        metavar="KINDS",
        help="comma list of kinds, see above (default: maps)",
    )
    save.completer = _complete_kinds
    threshold_help = "of the masks, 0 to 1 (default: %(default)s, the paper's)"
    parser.add_argument("--threshold", type=probability, default=THRESHOLD, metavar="T", help=threshold_help)
    crf_help = (
        'refine the maps by a dense CRF, the paper\'s "Ours+" (the extra `crf`; about a second a frame and process)'
    )
    parser.add_argument("--crf", action="store_true", help=crf_help)
    workers_help = "processes of the CRF (default: one for each processor, here %(default)s)"
    parser.add_argument("--crf-workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help=workers_help)
    resume_help = "go on from an interrupted run into OUT; give it from the start, unless maps are saved"
    parser.add_argument("--resume", action="store_true", help=resume_help)


def _complete_kinds(prefix: str, **_: object) -> list[str]:
    """For shells: the last kind of the list."""
    before, comma, _rest = prefix.rpartition(",")
    return [f"{before}{comma}{kind}" for kind in KINDS if kind not in before.split(",")]


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 1024, got {text!r}")
    return int(text)
