"""`pdb-saliency calibrate`: make a model's saliency a probability."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_command, add_data_options, add_device, add_verbosity, path, path_type, whole_number
from .console import report, write

_HELP = """\
Fit a scale and an offset of the logits to annotated videos, so that the
saliency can be read as a probability (Platt 1999), and write the model with
these two numbers. The reliability before and after is shown (of the pixels
with a saliency near 0.5 about half should be salient), with the expected
calibration error, and J at several thresholds of the masks.

Use videos that the model was not trained on. These figures are measured on the
same videos that the numbers are fitted to.
"""

_EXAMPLES = """\
examples:
  pdb-saliency calibrate runs/temporal/best.safetensors davis-2016:val \\
      --data-root data -o model.safetensors
  pdb-saliency calibrate lite my-videos --every 4
"""


def add_parser(commands: Any) -> None:
    help = "make a model's saliency a probability"
    parser = add_command(commands, "calibrate", calibrate, help=help, description=_HELP, epilog=_EXAMPLES)
    model_help = "a name or a file, as for predict --weights, or a finished run's folder"
    parser.add_argument("model", metavar="MODEL", type=path, help=model_help)
    parser.add_argument("videos", metavar="VIDEOS", type=path, nargs="+", help="data sets, as for train --val")
    add_data_options(parser)
    output_help = "write the calibrated model to this .safetensors or .pth file (default: only show the numbers)"
    parser.add_argument("-o", "--output", metavar="FILE", type=path_type, help=output_help)
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    every_help = "use only every n-th clip of five frames (default: all)"
    parser.add_argument("--every", type=whole_number(1), default=1, metavar="N", help=every_help)
    add_device(parser)
    add_verbosity(parser, "print only errors and the tables: no notes", "also report model and device")


def calibrate(arguments: argparse.Namespace) -> None:
    from pdb_saliency.data.sets.check import open_videos
    from pdb_saliency.evaluation import calibration
    from pdb_saliency.inference.devices import resolve_device
    from pdb_saliency.model.weights import check_model_path, load_model, save_model
    from pdb_saliency.training.initial_model import model_file

    if arguments.output:
        check_model_path(arguments.output)
    model = load_model(model_file(arguments.model))
    if model.untrained:
        report("note", model.untrained)
    videos = open_videos(arguments.videos, arguments.data_root, arguments.broken)
    found = calibration.calibrate(model, videos, resolve_device(arguments.device), arguments.every)
    write(found.report())
    if arguments.output:
        calibration.set_calibration(model, found.scale, found.offset)
        save_model(model.half() if arguments.half else model, arguments.output)
        write(f"\n{arguments.output}")
