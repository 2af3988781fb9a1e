"""What the command line prints, on standard streams that may be closed, full, or of any encoding."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from .errors import OutputError


def prepare_streams() -> None:
    """Put the null device where a standard stream is closed, and let the others escape what they cannot encode."""
    # In the order of their descriptors, each of which takes the lowest free number: a video that got number 1 or 2 would
    # receive what libraries print.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print at once, to stdout unless told otherwise.

    Where stderr cannot be written there is nobody to tell, and the work goes on. For stdout, raises OutputError, or
    BrokenPipeError when its reader has gone.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError as error:
        # What waits in the buffer would fail once more when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error


class Verbosity:
    """What `tell` says: with quiet no notes, with verbose also details ("info")."""

    quiet = False
    verbose = False


def tell(*parts: object) -> None:
    """One line on stderr, "pdb-saliency: " and the parts. Control characters, which come from files, are escaped.

    The first part is "error", "note", "info" or the message itself; errors are red on a terminal, unless NO_COLOR is set.
    """
    if (parts[0] == "note" and Verbosity.quiet) or (parts[0] == "info" and not Verbosity.verbose):
        return
    text = printable(": ".join(map(str, ("pdb-saliency", *parts))))
    if parts[0] == "error" and _has_colours(sys.stderr):
        text = text.replace("error", "\x1b[31merror\x1b[0m", 1)
    write(text, sys.stderr)


def printable(text: str) -> str:
    """One line of `text`, what comes from names of files included: control characters and bytes of no encoding are escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.splitlines()))


def _has_colours(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()
