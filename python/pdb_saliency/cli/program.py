"""The command line, `pdb-saliency COMMAND`.

Nothing heavy is imported before a command runs, so that --help answers at once.
Exit codes: 0 done, 1 something the user can put right (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import NoReturn, TextIO

from pdb_saliency.errors import SaliencyError
from pdb_saliency.options import DEMO_KINDS, THRESHOLD
from pdb_saliency.runtime.allocator import keep_freed_memory
from pdb_saliency.runtime.isolation import isolate_multiprocessing
from pdb_saliency.runtime.progress import printable

from . import bench, calibrate, data, evaluate, export, predict, reproduce, train
from .arguments import add_model_options, add_output, add_verbosity
from .console import Verbosity, library_on_console, prepare_streams, say, tell, write, write_line

_HELP = "Video salient object detection with PDB-ConvLSTM (Song et al., ECCV 2018)."

_EXAMPLES = """\
examples:
  pdb-saliency demo
  pdb-saliency predict clip.mp4 -o out --save maps,video
  pdb-saliency train --help
  pdb-saliency evaluate maps/ masks/
  pdb-saliency COMMAND --help

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C; predict
and train take SIGTERM for the same

completion in bash and zsh (the extra `completion`):
  eval "$(register-python-argcomplete pdb-saliency)"
"""

_DEMO_HELP = """\
A first run without any data: draw a football rolling over a meadow under a
moving camera (OUT/demo-clip.mp4), then run `predict` on it, which writes
OUT/overlay.mp4, OUT/report.html, maps, masks and overlays. The ball's true
masks are known, so the result is scored as well.
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
    except MemoryError as error:
        tell("error", f"not enough memory ({error})" if str(error) else "not enough memory")
    except BrokenPipeError:
        pass  # The reader of our output has gone, and wants no more words.
    return 1


def _run(argv: list[str] | None) -> int:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # A shell asks for completions.
        _complete(parser)
    arguments = parser.parse_args(argv)
    Verbosity.quiet, Verbosity.verbose = getattr(arguments, "quiet", False), getattr(arguments, "verbose", False)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    keep_freed_memory()
    isolate_multiprocessing()  # Also of what libraries start.
    began = time.monotonic()
    with library_on_console():
        arguments.command(arguments)
    tell("info", f"done in {time.monotonic() - began:.1f} s")
    return 0


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit; nothing where argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def _demo(arguments: argparse.Namespace) -> None:
    from pdb_saliency.demo.demo import render_clip, score
    from pdb_saliency.demo.film import MeadowFilm

    clip = arguments.output / "demo-clip.mp4"
    truth = render_clip(MeadowFilm(), clip)
    options = predict.Options(DEMO_KINDS, weights=arguments.weights, device=arguments.device)
    line = predict.process(str(clip), arguments.output, options, options.make_engine)
    say(line)
    overlap, error = score(arguments.output / "maps", truth, THRESHOLD)
    write(
        f"against the ball's true masks: mean IoU {overlap:.3f} at threshold {THRESHOLD}, mean absolute error {error:.3f}"
    )
    write_line(f"overlay video: {(arguments.output / 'overlay.mp4').resolve()}")


def _info(arguments: argparse.Namespace) -> None:
    from .info import describe

    write(describe(Verbosity.verbose))


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(
            action, argparse._SubParsersAction
        ):  # Python before 3.13 forgets that commands are indented once more.
            self._action_max_length += self._indent_increment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # An unquoted glob arrives as many arguments; argparse would list them all.
        if message.startswith("unrecognized arguments") and len(message) > 200:
            message = f"{message[:150]}... (a glob must be quoted: 'frames/*.jpg')"
        super().error(printable(message))

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        write(message, file, end="")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="pdb-saliency", description=_HELP, epilog=_EXAMPLES, formatter_class=_Formatter)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    predict.add_parser(commands)
    demo = commands.add_parser(
        "demo", help="a first run, without any data", description=_DEMO_HELP, formatter_class=raw
    )
    demo.set_defaults(command=_demo)
    add_output(demo, default=Path("pdb-saliency-demo"), help="folder for the results (default: %(default)s)")
    add_model_options(demo)
    add_verbosity(demo, quiet="only errors and the last two lines: no progress and notes")

    for command in (data, train, calibrate, evaluate, reproduce, bench, export):
        command.add_parser(commands)

    info = commands.add_parser("info", help="the build and the devices", description="Print the build and the devices.")
    info.set_defaults(command=_info)
    add_verbosity(info, quiet="only errors and the listing", verbose="also tell how PyTorch was built")
    return parser
