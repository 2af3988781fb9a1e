"""The command line, `pdb-saliency COMMAND`.

Nothing heavy is imported before a command runs, so that --help answers at once.
Exit codes: 0 done, 1 something the user can put right (one line on stderr), 2 wrong usage, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from .allocator import keep_freed_memory
from .commands import bench, data, evaluate, export, reproduce, train
from .commands.arguments import add_model_options, add_output, kinds_list, path, probability
from .commands.predict_inputs import add_inputs, jobs_of
from .commands.predict_options import add_engine_options, engine_options
from .errors import SaliencyError
from .options import KINDS, THRESHOLD, EngineOptions
from .streams import prepare_streams, tell, write
from .worklist import Job, Share, device_of_process, work_through

if TYPE_CHECKING:
    from .engine import Engine

_HELP = "Video salient object detection with PDB-ConvLSTM (Song et al., ECCV 2018)."

_EXAMPLES = """\
examples:
  pdb-saliency demo
  pdb-saliency predict clip.mp4 -o out --save maps,video
  pdb-saliency train --help
  pdb-saliency evaluate maps/ masks/
  pdb-saliency COMMAND --help

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C
"""

_PREDICT_HELP = """\
Write a saliency map for every frame of a video, a folder of frames, or a glob.

  --save maps     OUT/maps/NAME.png: saliency 0..1 as grey 0..255 (the default)
  --save masks    OUT/masks/NAME.png: white where saliency reaches the threshold
  --save overlay  OUT/overlay/NAME.png: the frame, tinted red where salient
  --save video    OUT/overlay.mp4: the same at the source's frame rate
                  (24 for pictures, whose first one sets the size)

Pictures have the size of their frame. NAME is the frame's file name without
its suffix; a video's frames are 00000, 00001, ... Frames are taken in natural
order: 2.jpg before 10.jpg. Files of an earlier run are overwritten, never
deleted. When a frame cannot be read, the results of all frames before it are
written, and the exit code is 1.

Several INPUTs, a folder of videos, or of folders of frames, and the lines of
--list files are one work list: each video gets a folder below OUT, called by
its name, and a line when it is done. One that fails does not stop the rest;
the exit code is then 1. Under torchrun the processes share the list, and each
takes the GPU of its number.
"""

_PREDICT_EXAMPLES = """\
examples:
  pdb-saliency predict clip.mp4 -o out
  pdb-saliency predict frames/ -o out --save maps,masks,video
  pdb-saliency predict 'frames/*.jpg' -o out --weights net.caffemodel
  pdb-saliency predict a.mp4 b.mp4 films/ -o out
  torchrun --nproc-per-node 4 -m pdb_saliency predict --list films.txt -o out
"""

_DEMO_HELP = """\
A first run without any data: draw a football rolling over a meadow under a
moving camera (OUT/demo-clip.mp4), then run `predict` on it, which writes
OUT/overlay.mp4 and the maps. The ball's true masks are known, so the result is
scored as well.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage and --help raise SystemExit, as argparse does."""
    # Decoders report on stderr what the command says in one line. Set before anything imports cv2.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    prepare_streams()
    try:
        return _run(argv)
    except SaliencyError as error:
        tell("error", error)
    except KeyboardInterrupt:
        tell("interrupted; the files written so far are complete")
        return 130
    except BrokenPipeError:
        pass  # The reader of our output has gone, and wants no more words.
    return 1


def _run(argv: list[str] | None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    keep_freed_memory()
    arguments.command(arguments)
    return 0


def _predict(arguments: argparse.Namespace) -> None:
    options = engine_options(arguments)
    jobs = jobs_of(arguments)
    share = Share.from_environment()

    make_engine = partial(_engine, arguments.weights, arguments.device, options)

    def process(make_engine: Callable[[], Engine], job: Job) -> str:
        return _process(job.source, job.out, arguments.save, arguments.threshold, make_engine)

    if len(jobs) == 1 and share.world == 1:
        write(process(make_engine, jobs[0]))
    else:
        engine = make_engine()  # Before the work: what is wrong with it would fail every video.
        work_through(jobs, share, partial(process, lambda: engine))


def _demo(arguments: argparse.Namespace) -> None:
    from .demo import render_clip, score
    from .scene import MeadowFilm

    clip = arguments.output / "demo-clip.mp4"
    truth = render_clip(MeadowFilm(), clip)
    make_engine = partial(_engine, arguments.weights, arguments.device, EngineOptions())
    write(_process(str(clip), arguments.output, KINDS, THRESHOLD, make_engine))
    overlap, error = score(arguments.output / "maps", truth, THRESHOLD)
    write(f"against the ball's true masks: mean IoU {overlap:.3f} at threshold {THRESHOLD}, mean absolute error {error:.3f}")
    write(f"overlay video: {(arguments.output / 'overlay.mp4').resolve()}")


def _info(arguments: argparse.Namespace) -> None:
    from .info import describe

    write(describe())


def _engine(weights: str | None, device_name: str, options: EngineOptions) -> Engine:
    from .engine import Engine, resolve_device
    from .weights import load_model

    device = resolve_device(device_of_process(device_name))
    model = load_model(weights)
    if model.untrained:
        tell("note", model.untrained)
    return Engine(model, device, options)


def _process(text: str, out: Path, kinds: Sequence[str], threshold: float, make_engine: Callable[[], Engine]) -> str:
    """The main job; returns a line about what was written."""
    from .source import open_source

    source = open_source(text)

    # Only now, so that a mistyped path is told at once.
    from .predict import run
    from .writer import ResultWriter

    engine = make_engine()
    with ResultWriter(out, kinds, threshold, source.fps, source.files) as writer:
        run(source, engine, writer)
    if source.remark:
        tell("note", source.remark)
    return f"{writer.frames} frame{'s' * (writer.frames != 1)} -> {', '.join(map(str, writer.outputs()))}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # An unquoted glob arrives as many arguments; argparse would list them all.
        if message.startswith("unrecognized arguments") and len(message) > 200:
            message = f"{message[:150]}... (a glob must be quoted: 'frames/*.jpg')"
        super().error(message)

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        write(message, file, end="")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="pdb-saliency", description=_HELP, epilog=_EXAMPLES, formatter_class=raw)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="saliency of a video or of frames",
        description=_PREDICT_HELP,
        epilog=_PREDICT_EXAMPLES,
        formatter_class=raw,
    )
    predict.set_defaults(command=_predict)
    add_inputs(predict)
    add_output(predict, required=True, help="folder for the results; made if absent")
    kinds = ", ".join(KINDS)
    predict.add_argument("--save", type=kinds_list, default=["maps"], metavar="KINDS", help=f"comma list of {kinds} (default: maps)")
    threshold_help = "of the masks, 0 to 1 (default: %(default)s, the paper's)"
    predict.add_argument("--threshold", type=probability, default=THRESHOLD, metavar="T", help=threshold_help)
    add_model_options(predict)
    add_engine_options(predict)

    demo = commands.add_parser("demo", help="a first run, without any data", description=_DEMO_HELP, formatter_class=raw)
    demo.set_defaults(command=_demo)
    add_output(demo, default=Path("pdb-saliency-demo"), help="folder for the results (default: %(default)s)")
    add_model_options(demo)

    for command in (data, train, evaluate, reproduce, bench, export):
        command.add_parser(commands)

    info = commands.add_parser("info", help="the build and the devices", description="Print the build and the devices.")
    info.set_defaults(command=_info)
    return parser
