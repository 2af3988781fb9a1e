"""`pdb-saliency bench`: how fast this machine is, stage by stage, beside what its convolutions alone take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import add_model_options, add_verbosity, path
from .console import tell, write
from .predict_options import add_engine_options, engine_options, positive

_HELP = """\
Measure every stage of `predict` on this machine, and beside them the floor:
the network's convolutions alone, those inside the ConvLSTM layers included,
run by plain PyTorch over the same shapes. First the maps of the first clip are
compared with those of the plain float32 model; a wrong answer is not timed.

  decode, resize             from the file to the network's uint8 input
                             (decoding from the second frame on)
  spatial                    backbone, PDC, reduction (with upload and
                             normalisation)
  temporal                   the temporal module alone
  temporal, head, upsample   all that follows the spatial part
  network                    both together: to be compared with the floor
  to frame size, encode png  from the network's map to a file
  end to end                 `predict` from the video to its maps, the stages
                             overlapping

Stages are timed in turns; times are medians for one frame, GPUs are timed by
their own events. The source is drawn (854x480, mp4) unless INPUT is given.
"""

_EXAMPLES = """\
examples:
  pdb-saliency bench
  pdb-saliency bench --architecture paper --frames 5 --json bench.json
  pdb-saliency bench clip.mp4 --device cuda --batch 32 --frames 500 --precision bfloat16
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="the speed of every stage on this machine",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=bench)
    parser.add_argument("input", metavar="INPUT", type=path, nargs="?", help="as for predict (default: a drawn clip)")
    parser.add_argument(
        "--json", metavar="FILE", type=lambda text: Path(path(text)), help="write all numbers to this file"
    )
    seconds_help = "time for measuring; three rounds are always made (default: %(default)s)"
    parser.add_argument("--seconds", type=positive, default=20, metavar="S", help=seconds_help)
    frames_help = "frames of an end-to-end run, which includes the start (default: %(default)s)"
    parser.add_argument("--frames", type=positive, default=40, metavar="N", help=frames_help)
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of PyTorch (default: its own choice)")
    architecture_help = (
        "time this network with random weights in place of a trained one: paper (ResNet-50), released, lite"
    )
    parser.add_argument("--architecture", choices=("paper", "released", "lite"), metavar="A", help=architecture_help)
    add_model_options(parser)
    add_engine_options(parser)
    add_verbosity(
        parser, "only errors and the table: no progress and notes", "also tell source, model, device and time"
    )


def bench(arguments: argparse.Namespace) -> None:
    options = engine_options(arguments)
    if options.causal:
        arguments.wrong_usage("bench measures clips; --causal has none")
    import tempfile

    import torch

    from pdb_saliency.inference.engine import Engine, resolve_device
    from pdb_saliency.runtime.files import write_file
    from pdb_saliency.timing.report import table, to_json
    from pdb_saliency.timing.stages import measure

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    model = _model(arguments.architecture, arguments.weights)
    engine = Engine(model, device, options)
    tell("info", f"{arguments.input or 'a drawn clip'}: {model.description}, on {device}")
    with tempfile.TemporaryDirectory() as folder:
        timings = measure(model, engine, _source(arguments, Path(folder)), arguments.frames, arguments.seconds)
    write(table(timings, model, engine))
    if arguments.json:
        write_file(arguments.json, to_json(timings, model, engine).encode())


def _model(architecture: str | None, weights: str | None) -> Any:
    from pdb_saliency.model.config import LITE, PAPER, RELEASED
    from pdb_saliency.model.saliency import SaliencyModel
    from pdb_saliency.model.weights import load_model

    if architecture is None:
        return load_model(weights)
    tell("note", "random weights: the speed is that of a trained model, the maps mean nothing")
    return SaliencyModel({"paper": PAPER, "released": RELEASED, "lite": LITE}[architecture]).eval()


def _source(arguments: argparse.Namespace, folder: Path) -> Any:
    from pdb_saliency.demo.demo import render_clip
    from pdb_saliency.demo.film import MeadowFilm
    from pdb_saliency.video.source import open_source

    if arguments.input:
        return open_source(arguments.input)
    count = max(min(arguments.frames, 60), arguments.clip_length)
    render_clip(MeadowFilm(count, 854, 480), folder / "clip.mp4")
    return open_source(str(folder / "clip.mp4"))
