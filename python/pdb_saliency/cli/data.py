"""`pdb-saliency data`: which data sets are there, and whether all their files can be read."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from pdb_saliency.errors import InputError

from .arguments import add_command, add_data_options, add_verbosity, path
from .console import write_line

_HELP = """\
List the data sets below ROOT, or only the SETs, and decode all their files.

A SET is a name with or without a split (duts, duts:train, davis-2016:val), or
the path of a folder.

{known}

Any other folder with images/ and masks/, or with JPEGImages/SEQUENCE/ and
Annotations/SEQUENCE/, is also a data set.

A pair of a picture and a mask is broken if a file is missing or does not
decode, if their sizes differ, or if the mask has no foreground. Every broken
pair is reported on stderr. With --broken refuse, the exit code is then 1.
"""

_EXAMPLES = """\
examples:
  pdb-saliency data --data-root datasets
  pdb-saliency data --data-root datasets duts:train davis-2016
  pdb-saliency data my/own/set --broken skip
"""


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "data", show, help="list and check data sets", description=_HELP, epilog=_EXAMPLES)
    parser.formatter_class = _Formatter
    parser.add_argument(
        "sets", nargs="*", metavar="SET", type=path, help="a name or a folder (default: all below ROOT)"
    )
    add_data_options(parser)
    add_verbosity(
        parser,
        "print only errors, broken pairs and the list: no progress or notes",
        "also report where each set is, and the time",
    )


def show(arguments: argparse.Namespace) -> None:
    """The work of `pdb-saliency data`."""
    from pdb_saliency.data.sets.survey import survey

    refused = []
    for finding in survey(arguments.sets, arguments.data_root, arguments.broken):
        write_line(f"{finding.name:24} {finding.words}")
        if finding.refused:
            refused.append(finding.name)
    if refused:
        raise InputError(f"{len(refused)} data set{'s' * (len(refused) != 1)} refused: {', '.join(refused)}")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Inserts the names in the registry, which is only imported when the help is shown, because it imports OpenCV."""

    def add_text(self, text: str | None) -> None:
        if text == _HELP:
            try:
                from pdb_saliency.data.sets.published import KNOWN
            except ImportError:  # The help must not depend on OpenCV.
                KNOWN = ["(the command lists them)"]
            known = (
                f"These published data sets are known by name: {', '.join(KNOWN)}. Each is expected in the layout in "
                "which it is published; if one is missing, the command names the folders in which it was expected."
            )
            text = text.format(known=textwrap.fill(known, 79, break_on_hyphens=False))
        super().add_text(text)
