"""`pdb-saliency demo`: a first run without any data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pdb_saliency.options import DEMO_KINDS, THRESHOLD
from pdb_saliency.runtime.processes import sigterm_like_ctrl_c

from .arguments import add_command, add_model_options, add_output, add_verbosity
from .console import say, write, write_line

_HELP = """\
A first run without any data: draw a football rolling over a meadow under a
moving camera (OUT/demo-clip.mp4), then run `predict` on it, which writes
OUT/overlay.mp4, OUT/report.html, maps, masks and overlays. The ball's true
masks are known, so the result is scored as well.
"""


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "demo", demo, help="a first run, without any data", description=_HELP)
    add_output(parser, default=Path("pdb-saliency-demo"), help="folder for the results (default: %(default)s)")
    add_model_options(parser)
    add_verbosity(parser, quiet="print only errors and the last two lines: no progress or notes")


def demo(arguments: argparse.Namespace) -> None:
    from pdb_saliency.demo.demo import render_clip, score
    from pdb_saliency.demo.film import MeadowFilm
    from pdb_saliency.predict.job import PredictOptions, predict_video

    out = arguments.output
    truth = render_clip(MeadowFilm(), out / "demo-clip.mp4")
    options = PredictOptions(DEMO_KINDS, weights=arguments.weights, device=arguments.device)
    with sigterm_like_ctrl_c():
        say(str(predict_video(str(out / "demo-clip.mp4"), out, options)))
    iou, mae = score(out / "maps", truth, THRESHOLD)
    write(f"against the ball's true masks: mean IoU {iou:.3f} at threshold {THRESHOLD}, mean absolute error {mae:.3f}")
    write_line(f"overlay video: {(out / 'overlay.mp4').resolve()}")
