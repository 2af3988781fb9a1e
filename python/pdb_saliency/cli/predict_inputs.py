"""What `predict` works on: one video, or a work list."""

from __future__ import annotations

import argparse
from pathlib import Path

from pdb_saliency.predict.worklist import Job, find_jobs

from .arguments import path


def add_inputs(parser: argparse.ArgumentParser) -> None:
    input_help = "a video file, a folder of frames, a quoted glob, or a folder of such; several make a work list"
    parser.add_argument("input", metavar="INPUT", type=path, nargs="*", help=input_help)
    list_help = "text file with an INPUT on each line, # for comments (may be given twice)"
    parser.add_argument(
        "--list", metavar="FILE", type=lambda text: Path(path(text)), action="append", default=[], help=list_help
    )


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """Ends the program with exit code 2 where nothing is named, or where the shell has spread a glob. Raises InputError."""
    if not arguments.input and not arguments.list:
        arguments.wrong_usage("expected an INPUT, or --list FILE")
    if len(arguments.input) > 1:
        from pdb_saliency.video.pictures import IMAGE_SUFFIXES

        if all(Path(text).suffix.lower() in IMAGE_SUFFIXES for text in arguments.input):
            names = f"{arguments.input[0]}, {arguments.input[1]}"
            arguments.wrong_usage(
                f"got pictures ({names}, ...): name their folder; a glob must be quoted: 'frames/*.jpg'"
            )
    return find_jobs(arguments.input, arguments.list, arguments.output)
