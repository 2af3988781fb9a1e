"""`pdb-saliency calibrate`: make a model's saliency a probability."""

from __future__ import annotations

import argparse
from typing import Any

from pdb_saliency.options import THRESHOLD

from .arguments import add_command, add_data_options, add_device, add_verbosity, path, path_type, whole_number
from .console import tell, write

_HELP = """\
Fit the two numbers with which a model's saliency means a probability (Platt 1999: scale and offset of its logits) to
annotated videos, and write the model with them. Shown are the reliability before and after (of the pixels with a saliency
near 0.5 about half should be salient), the expected calibration error, and J over the threshold of the masks.

Use videos that the model was not trained on. What is shown is measured on the videos that the numbers are fitted to.
"""

_EXAMPLES = """\
examples:
  pdb-saliency calibrate runs/temporal/best.safetensors davis-2016:val --data-root data -o model.safetensors
  pdb-saliency calibrate lite my-videos --every 4
"""


def add_parser(commands: Any) -> None:
    help = "make a model's saliency a probability"
    parser = add_command(commands, "calibrate", calibrate, help=help, description=_HELP, epilog=_EXAMPLES)
    model_help = "a name or a file, as for predict --weights, or a finished run's folder"
    parser.add_argument("model", metavar="MODEL", type=path, help=model_help)
    parser.add_argument("videos", metavar="VIDEOS", type=path, nargs="+", help="data sets, as for train --val")
    add_data_options(parser)
    output_help = "write the calibrated model to this .safetensors or .pth file (default: only show)"
    parser.add_argument("-o", "--output", metavar="FILE", type=path_type, help=output_help)
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    every_help = "look at every n-th clip of five frames only (default: at all)"
    parser.add_argument("--every", type=whole_number(1), default=1, metavar="N", help=every_help)
    add_device(parser)
    add_verbosity(parser, "only errors and the tables: no notes", "also tell model and device")


def calibrate(arguments: argparse.Namespace) -> None:
    from pdb_saliency.data.sets.check import open_videos
    from pdb_saliency.evaluation.calibration import fit, highest_saliency, observe, set_calibration
    from pdb_saliency.inference.devices import resolve_device
    from pdb_saliency.model.weights import check_model_path, load_model, save_model
    from pdb_saliency.training.initial_model import model_file

    if arguments.output:
        check_model_path(arguments.output)
    model = load_model(model_file(arguments.model))
    if model.untrained:
        tell("note", model.untrained)
    videos = open_videos(arguments.videos, arguments.data_root, arguments.broken)
    device = resolve_device(arguments.device)
    tell("info", f"{model.description}, on {device}")
    observed = observe(model, videos, device, arguments.every)
    scale, offset = fit(observed.counts)
    highest = highest_saliency(observed.counts, scale, offset)
    if highest < THRESHOLD:
        tell(
            "note",
            f"the maps hardly tell what is salient: calibrated, none exceeds {highest:.2f}, and no mask has a pixel",
        )
    write(f"scale {scale}, offset {offset}; before: {model.config.calibration[0]}, {model.config.calibration[1]}")
    _show(observed, {"before": model.config.calibration, "after": (scale, offset)})
    if arguments.output:
        set_calibration(model, scale, offset)
        save_model(model.half() if arguments.half else model, arguments.output)
        write(f"\n{arguments.output}")


def _show(observed: Any, calibrations: dict[str, tuple[float, float]]) -> None:
    from pdb_saliency.evaluation.calibration import best_threshold, calibration_error, overlap_at, reliability

    for name, numbers in calibrations.items():
        rows = reliability(observed.counts, *numbers)
        write(f"\n{name}: expected calibration error {calibration_error(rows):.4f}")
        write("saliency  salient  of all pixels")
        for said, true, pixels in rows:
            write(f"{said:8.3f} {true:8.3f} {pixels:14.2%}")
        threshold, overlap = best_threshold(observed.overlaps, *numbers)
        shown = ", ".join(
            f"{overlap_at(observed.overlaps, t, *numbers):.3f} at {t}" for t in (0.3, THRESHOLD, 0.5, 0.6)
        )
        write(f"J {shown}; at best {overlap:.3f} at {threshold:.2f}")
