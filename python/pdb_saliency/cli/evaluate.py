"""`pdb-saliency evaluate`: scores of saliency maps against masks."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_command, add_threshold, add_verbosity, add_workers, path, path_type
from .console import write

_HELP = """\
Score saliency maps against masks: MAE, maximum F-measure (beta^2 = 0.3),
precision and recall, S- and E-measure as defined by pysodmetrics, and the J
and F of DAVIS (mean, recall, decay) as defined by its toolkit.

  PRED  the maps of a method: PRED/SEQUENCE/FRAME.png, or PRED/FRAME.png for
        stills; with several GTs, PRED/DATASET/SEQUENCE/FRAME.png. FRAME.png
        may be in a subfolder `maps`, where `predict` writes it. PRED may also
        hold one such folder for each of several methods.
  GT    a folder of masks (stills); a folder with a folder of masks for each
        sequence, or with folders 1, 2, ... for its objects; the folder of a
        data set; or the name of a data set below --data-root
        (davis-2016:val, fbms:test, visal, ecssd, ...). NAME=GT renames it.

Maps are 8-bit grey images, 255 times the saliency, and are scored as they are.
--normalise first stretches each map to its own minimum and maximum, as the
authors and pysodmetrics do. A map that does not have the size of its mask is
resized to it, and a note says so.

MAE, max F, S and E are means over all frames. The J and F of DAVIS compare the
map, cut at the threshold, with the mask. They leave out the first and the last
annotated frame of a sequence, and are means over sequences. All stills count,
and have no decay.
"""

_EXAMPLES = """\
examples:
  pdb-saliency evaluate out/davis davis-2016:val --data-root data \\
      --json scores.json
  pdb-saliency evaluate maps/ DAVIS/Annotations/480p --sequences \\
      --plot pr.png --plot pr.pdf
  pdb-saliency evaluate methods/ DAVIS=DAVIS/Annotations/480p ViSal=visal \\
      --data-root data
"""


def add_parser(commands: Any) -> None:
    help = "scores of saliency maps against masks"
    parser = add_command(commands, "evaluate", evaluate, help=help, description=_HELP, epilog=_EXAMPLES)
    parser.add_argument("predictions", metavar="PRED", type=path_type, help="folder of maps")
    parser.add_argument("truths", metavar="GT", type=path, nargs="+", help="masks: a folder, or a data set's name")
    parser.add_argument("--data-root", metavar="ROOT", type=path_type, help="folder that holds the data sets")
    parser.add_argument("--json", metavar="FILE", type=path_type, help="write all scores and curves to this file")
    plot_help = "write the precision-recall plot, .png or .pdf (may be given twice)"
    parser.add_argument("--plot", metavar="FILE", type=path_type, action="append", default=[], help=plot_help)
    parser.add_argument("--sequences", action="store_true", help="also list every sequence in the table")
    add_threshold(parser, "the masks that J and F compare")
    parser.add_argument("--normalise", action="store_true", help="stretch every map to its minimum and maximum first")
    missing_help = "if predictions are missing, score the others (default: refuse)"
    parser.add_argument("--allow-missing", action="store_true", help=missing_help)
    add_workers(parser)
    quiet_help = "print only errors and the table: no progress or notes"
    add_verbosity(parser, quiet_help, "also report what is scored, and the time")


def evaluate(arguments: argparse.Namespace) -> None:
    from pdb_saliency.evaluation import report, scoring

    report.check_files(arguments.json, arguments.plot)
    rules = scoring.Rules(arguments.threshold, arguments.normalise)
    results = scoring.evaluate(
        arguments.predictions,
        arguments.truths,
        rules,
        data_root=arguments.data_root,
        workers=arguments.workers,
        allow_missing=arguments.allow_missing,
    )
    write(report.table(results, arguments.sequences))
    report.write_files(results, rules, arguments.json, arguments.plot)
