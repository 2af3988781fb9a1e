"""`pdb-saliency bench`: the speed of every stage on this machine, beside that of the convolutions alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pdb_saliency.options import NETWORKS

from .arguments import add_command, add_model_options, add_verbosity, path, path_type, whole_number
from .console import report, write
from .engine_options import add_engine_options, engine_options

_HELP = """\
Measure every stage of `predict` on this machine, and beside them the floor:
the network's convolutions alone, including those inside the ConvLSTM layers,
run by plain PyTorch on the same shapes. Before that, the maps of the first
clip are compared with those of the plain float32 model; a wrong result is not
timed.

  decode, resize             from the file to the network's uint8 input
                             (decoding from the second frame on)
  spatial                    backbone, PDC and reduction, including upload and
                             normalisation
  temporal                   the temporal module alone
  temporal, head, upsample   everything after the spatial part
  network                    both together: to be compared with the floor
  to frame size, encode png  from the network's map to a file
  end to end                 `predict` from the video to its maps, with
                             overlapping stages

Stages are timed in turn. Times are medians per frame; GPUs are timed by their
own events. Unless INPUT is given, the source is a drawn clip (854x480, mp4).
"""

_EXAMPLES = """\
examples:
  pdb-saliency bench
  pdb-saliency bench --architecture paper --frames 5 --json bench.json
  pdb-saliency bench clip.mp4 --device cuda --batch 32 --frames 500 --precision bfloat16
"""


_CLIP_SIZE = (854, 480)  # width, height of the drawn clip
_MOST_DRAWN = 60  # frames


def add_parser(commands: Any) -> None:
    summary = "the speed of every stage on this machine"
    parser = add_command(commands, "bench", bench, help=summary, description=_HELP, epilog=_EXAMPLES)
    count = whole_number(1, 10**6)
    parser.add_argument("input", metavar="INPUT", type=path, nargs="?", help="as for predict (default: a drawn clip)")
    parser.add_argument("--json", metavar="FILE", type=path_type, help="write all numbers to this file")
    seconds_help = "time for measuring; at least three rounds are made (default: %(default)s)"
    parser.add_argument("--seconds", type=count, default=20, metavar="S", help=seconds_help)
    frames_help = "frames of an end-to-end run, which includes the start (default: %(default)s)"
    parser.add_argument("--frames", type=count, default=40, metavar="N", help=frames_help)
    parser.add_argument("--threads", type=count, metavar="N", help="threads of PyTorch (default: its own choice)")
    architecture_help = f"time this network with random weights instead: {', '.join(NETWORKS)} (paper has ResNet-50)"
    parser.add_argument("--architecture", choices=NETWORKS, metavar="A", help=architecture_help)
    add_model_options(parser)
    add_engine_options(parser)
    quiet = "print only errors and the table: no progress or notes"
    add_verbosity(parser, quiet, "also report source, model, device and time")


def bench(arguments: argparse.Namespace) -> None:
    options = engine_options(arguments)
    if options.causal:
        arguments.wrong_usage("bench measures clips; --causal has none")
    import tempfile

    import torch

    from pdb_saliency.demo.demo import drawn_source
    from pdb_saliency.inference.devices import resolve_device
    from pdb_saliency.inference.engine import Engine
    from pdb_saliency.model.weights import load_model
    from pdb_saliency.runtime.files import write_file
    from pdb_saliency.timing.report import table, to_json
    from pdb_saliency.timing.stages import measure, random_model
    from pdb_saliency.video.source import open_source

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    model = random_model(arguments.architecture) if arguments.architecture else load_model(arguments.weights)
    engine = Engine(model, device, options)
    report("info", f"{arguments.input or 'a drawn clip'}: {model.description}, on {device}")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.input:
            source = open_source(arguments.input)
        else:
            count = max(min(arguments.frames, _MOST_DRAWN), arguments.clip_length)
            source = drawn_source(Path(folder) / "clip.mp4", count, *_CLIP_SIZE)
        timings = measure(model, engine, source, arguments.frames, arguments.seconds)
    write(table(timings, model, engine))
    if arguments.json:
        write_file(arguments.json, to_json(timings, model, engine).encode())
