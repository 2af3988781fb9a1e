"""`pdb-saliency reproduce`: the paper's tables, measured on the data that is available."""

from __future__ import annotations

import argparse
from typing import Any

from pdb_saliency.errors import InputError
from pdb_saliency.options import PAPER_TABLES

from .arguments import (
    add_command,
    add_data_options,
    add_device,
    add_output,
    add_threshold,
    add_verbosity,
    add_workers,
    path,
    path_type,
)
from .console import say

_HELP = """\
Run checkpoints on the paper's test sets and set their scores beside the
paper's numbers: Tables 1, 2, 4 and 5 (Markdown and JSON) and the
precision-recall plots of Figure 4 (PNG and PDF). Every cell says whether it
was measured here, is quoted from the paper, or is absent.

  --data-root    is searched for DAVIS-2016 (the 20 sequences of `val`), FBMS
                 (`test`) and ViSal. A folder with only some of the test
                 sequences of DAVIS counts as a part of it, and the head of
                 the column says so.
  --checkpoints  all .safetensors, .pth and .caffemodel files in the folder and
                 its subfolders. The configuration of a model decides where it
                 belongs: without a temporal module to Table 4, by its dilation
                 rates or ASPP; with one to Table 5; with a PDB-ConvLSTM to
                 Tables 1 and 2 as well. Checkpoints that differ only in their
                 weights (seeds) share a row: mean and standard deviation. Of a
                 finished run of `train`, model.safetensors is used, not
                 best.safetensors, which was chosen by its scores on the
                 validation set.
  --maps         existing maps of any method: METHOD/DAVIS/SEQUENCE/FRAME.png
                 (or FBMS, ViSal).

Maps are kept in OUT/maps and used again as long as the checkpoint is the same:
an interrupted run continues where it was. "Ours+" needs the extra `crf`, and
half a second per frame.
"""

_EXAMPLES = """\
examples:
  pdb-saliency reproduce --data-root data --checkpoints runs -o tables
  pdb-saliency reproduce --data-root data --checkpoints seeds --tables 5 \\
      --no-crf -o ablation
  pdb-saliency reproduce --dataset DAVIS=DAVIS-2016/val --maps methods \\
      -o tables --normalise
"""


def add_parser(commands: Any) -> None:
    help = "the paper's tables, measured on the data that is available"
    parser = add_command(commands, "reproduce", reproduce, help=help, description=_HELP, epilog=_EXAMPLES)
    add_output(parser, required=True, help="folder for the results; created if absent")
    add_data_options(parser)
    place_help = "where a test set is (DAVIS, FBMS or ViSal); may be repeated"
    parser.add_argument("--dataset", metavar="SET=PLACE", type=_place, action="append", default=[], help=place_help)
    parser.add_argument("--checkpoints", metavar="DIR", type=path_type, help="folder of checkpoints")
    parser.add_argument("--maps", metavar="DIR", type=path_type, help="folder with a folder of maps for each method")
    tables_help = "comma list of 1,2,4,5 (default: all)"
    parser.add_argument("--tables", type=_tables, default=PAPER_TABLES, metavar="LIST", help=tables_help)
    figures_help = "4 or none; the plots need the extra `train` (default: 4)"
    parser.add_argument("--figures", choices=("4", "none"), default="4", metavar="LIST", help=figures_help)
    parser.add_argument("--no-crf", action="store_true", help='leave out "Ours+" of Table 2')
    add_threshold(parser, "the masks that J and F compare")
    normalise_help = "stretch every map to its minimum and maximum, as the authors did"
    parser.add_argument("--normalise", action="store_true", help=normalise_help)
    add_device(parser)
    add_workers(parser, what="processes for the scores")
    add_verbosity(parser, verbose="also report checkpoints, device and time")


def reproduce(arguments: argparse.Namespace) -> None:
    from pdb_saliency.evaluation.paper import reproduction
    from pdb_saliency.evaluation.scoring import Rules

    if not arguments.data_root and not arguments.dataset:
        raise InputError("no test set is named: expected --data-root or --dataset")
    places = dict(arguments.dataset)
    if len(places) < len(arguments.dataset):
        raise InputError("--dataset names a test set twice: expected one place for each")
    result = reproduction.reproduce(
        arguments.output,
        data_root=arguments.data_root,
        places=places,
        checkpoints=arguments.checkpoints,
        maps=arguments.maps,
        tables=arguments.tables,
        figure=arguments.figures == "4",
        use_crf=not arguments.no_crf,
        rules=Rules(arguments.threshold, arguments.normalise),
        device=arguments.device,
        workers=arguments.workers,
        broken=arguments.broken,
    )
    count = len(result.measurements)
    say(f"{count} measurement{'s' * (count != 1)} -> {', '.join(map(str, result.files))}")


def _tables(text: str) -> tuple[int, ...]:
    chosen = text.split(",")
    if not set(chosen) <= set(map(str, PAPER_TABLES)):
        expected = ", ".join(map(str, PAPER_TABLES))
        raise argparse.ArgumentTypeError(f"expected a comma list of {expected}, got {text!r}")
    return tuple(number for number in PAPER_TABLES if str(number) in chosen)


def _place(text: str) -> tuple[str, str]:
    name, separator, place = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected SET=PLACE, got {text!r}")
    return name, path(place)
