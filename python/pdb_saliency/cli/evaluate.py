"""`pdb-saliency evaluate`: scores of saliency maps against masks."""

from __future__ import annotations

import argparse
from typing import Any

from pdb_saliency.errors import InputError

from .arguments import add_command, add_threshold, add_verbosity, add_workers, path, path_type
from .console import tell, write

_HELP = """\
Score saliency maps against masks: MAE, maximum F-measure (beta^2 = 0.3), precision and recall, S- and E-measure with the
definitions of pysodmetrics, and J and F of DAVIS (mean, recall, decay) with those of its toolkit.

  PRED  a method's maps: PRED/SEQUENCE/FRAME.png, or PRED/FRAME.png for stills; with several GT,
        PRED/DATASET/SEQUENCE/FRAME.png. FRAME.png may lie one deeper, in `maps`, where `predict` writes it. Or a folder
        that holds such a folder for each of several methods.
  GT    a folder of masks (stills), a folder of a folder of masks for each sequence (or of folders 1, 2, ... for its
        objects), a data set's own folder, or the name of a data set below --data-root (davis-2016:val, fbms:test, visal,
        ecssd, ...). NAME=GT gives it another name.

Maps are 8-bit grey, 255 times the saliency, and are taken as they are; --normalise stretches each to its own minimum and
maximum first, as the authors and pysodmetrics do. A map of another size than its mask is resized to it, which a note tells.
MAE, F, S and E are means over all frames. J and F compare the map cut at the threshold with the mask; they leave out the
first and the last annotated frame of a sequence, and are means over sequences. Every still counts, and has no decay.
"""

_EXAMPLES = """\
examples:
  pdb-saliency evaluate out/davis davis-2016:val --data-root data --json scores.json
  pdb-saliency evaluate maps/ DAVIS/Annotations/480p --sequences --plot pr.png --plot pr.pdf
  pdb-saliency evaluate methods/ DAVIS=DAVIS/Annotations/480p ViSal=visal --data-root data
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
    parser.add_argument("--sequences", action="store_true", help="show every sequence in the table, too")
    add_threshold(parser, "the masks that J and F compare")
    parser.add_argument("--normalise", action="store_true", help="stretch every map to its minimum and maximum first")
    missing_help = "score what is there when predictions are missing (default: refuse)"
    parser.add_argument("--allow-missing", action="store_true", help=missing_help)
    add_workers(parser)
    add_verbosity(parser, "only errors and the table: no progress and notes", "also tell what is scored, and the time")


def evaluate(arguments: argparse.Namespace) -> None:
    from pdb_saliency.evaluation.plot import Curve, check_plot, plot_curves

    for plot in arguments.plot:  # Before the work, not after it.
        check_plot(plot)
    from pdb_saliency.evaluation.pairs import open_truth
    from pdb_saliency.evaluation.predictions import find_tasks
    from pdb_saliency.evaluation.report import table, to_json
    from pdb_saliency.evaluation.scoring import Rules, score_tasks
    from pdb_saliency.runtime.files import check_file, write_file

    for file in [*arguments.plot, *([arguments.json] if arguments.json else [])]:
        check_file(file)
    truths = [open_truth(text, arguments.data_root) for text in arguments.truths]
    names = [truth.name for truth in truths]
    if len(set(names)) < len(names):
        raise InputError(f"the data sets need different names, got {', '.join(names)}; call them NAME=GT")
    tasks = find_tasks(arguments.predictions, truths)
    _complain(tasks, names, arguments.allow_missing)
    for task in tasks:
        tell("info", f"{task.method} on {task.dataset}: {len(task.pairs)} maps")
    rules = Rules(arguments.threshold, arguments.normalise)
    results = score_tasks(tasks, rules, arguments.workers)
    for note in (note for result in results for note in result.notes):
        tell("note", note)
    write(table(results, arguments.sequences))
    if arguments.json:
        write_file(arguments.json, to_json(results, rules).encode())
    if arguments.plot:
        curves: dict[str, list[Curve]] = {}
        for result in results:
            total = result.total
            curve = Curve(result.task.method, total.precision, total.recall, total.max_f, total.max_f_cut)
            curves.setdefault(result.task.dataset, []).append(curve)
        plot_curves(curves, arguments.plot)


def _complain(tasks: list, datasets: list[str], allow_missing: bool) -> None:
    """Tell what does not match. Raises InputError for missing predictions, unless they may be missing."""
    for method in dict.fromkeys(task.method for task in tasks):
        absent = set(datasets) - {task.dataset for task in tasks if task.method == method}
        if absent:
            tell("note", f"{method}: no predictions of {', '.join(sorted(absent))}")
    for task in tasks:
        if task.missing and not allow_missing:
            raise InputError(f"{task.tell_missing()} (--allow-missing scores the rest)")
        if task.missing:
            tell("note", task.tell_missing())
        if task.extra:
            tell("note", task.tell_extra())
