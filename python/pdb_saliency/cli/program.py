"""The command line, `pdb-saliency COMMAND`.

Nothing heavy is imported before a command runs, so that --help answers at once.
Exit codes: 0 done, 1 something the user can correct (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import NoReturn, TextIO

from pdb_saliency.errors import SaliencyError
from pdb_saliency.runtime.allocator import keep_freed_memory
from pdb_saliency.runtime.isolation import isolate_multiprocessing
from pdb_saliency.runtime.progress import printable

from . import bench, calibrate, data, demo, evaluate, export, info, predict, reproduce, train
from .console import Verbosity, library_on_console, prepare_streams, report, write

COMMANDS = (
    predict,
    demo,
    data,
    train,
    calibrate,
    evaluate,
    reproduce,
    bench,
    export,
    info,
)  # In the order of the help.

_HELP = "Video salient object detection with PDB-ConvLSTM (Song et al., ECCV 2018)."

_EXAMPLES = """\
examples:
  pdb-saliency demo
  pdb-saliency predict clip.mp4 -o out --save maps,video
  pdb-saliency train --help
  pdb-saliency evaluate maps/ masks/
  pdb-saliency COMMAND --help

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, or by
SIGTERM in predict and train

completion in bash and zsh (the extra `completion`):
  eval "$(register-python-argcomplete pdb-saliency)"
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. Wrong usage and --help raise SystemExit, as argparse does."""
    # The decoders would print on stderr what the command reports in one line. Set before anything imports cv2.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    prepare_streams()
    try:
        return _run(argv)
    except SaliencyError as error:
        report("error", error)
    except KeyboardInterrupt:
        report("interrupted; the files written so far are complete")
        return 130
    except MemoryError as error:
        report("error", f"not enough memory ({error})" if str(error) else "not enough memory")
    except BrokenPipeError:
        pass  # The reader of our output is gone.
    return 1


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pdb-saliency", description=_HELP, epilog=_EXAMPLES, formatter_class=_Formatter)
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _run(argv: list[str] | None) -> int:
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # A shell asks for completions.
        _complete(parser)
    arguments = parser.parse_args(argv)
    Verbosity.quiet, Verbosity.verbose = getattr(arguments, "quiet", False), getattr(arguments, "verbose", False)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    keep_freed_memory()
    isolate_multiprocessing()  # For the processes that libraries start as well.
    began = time.monotonic()
    with library_on_console():
        arguments.command(arguments)
    report("info", f"done in {time.monotonic() - began:.1f} s")
    return 0


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit. Does nothing if argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        # Before Python 3.13 the width of the left column does not allow for the commands' additional indentation.
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # An unquoted glob arrives as many arguments; argparse would list them all.
        if message.startswith("unrecognized arguments") and len(message) > 200:
            message = f"{message[:150]}... (a glob must be quoted: 'frames/*.jpg')"
        super().error(printable(message))

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        write(message, file, end="")
