"""What the command line prints, on standard streams that may be closed, full, or of any encoding."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from .errors import OutputError

if TYPE_CHECKING:
    from tqdm import tqdm


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


class Verbosity:
    """What the command line says besides errors and results: with quiet nothing, with verbose also details ("info")."""

    quiet = False
    verbose = False


def printable(text: object) -> str:
    """The text with its control characters escaped, line breaks among them: names of files may hold any."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def write_line(text: str) -> None:
    """One line on stdout, `printable`. Raises as `write`."""
    write(printable(text))


def write(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print lines at once, to stdout unless told otherwise. Each of them is made `printable`.

    Where stderr cannot be written there is nobody to tell, and the work goes on. For stdout, raises OutputError, or
    BrokenPipeError when its reader has gone.
    """
    _print("\n".join(map(printable, text.split("\n"))), stream or sys.stdout, end)


def say(text: str) -> None:
    """One line on stdout on what was done, which --quiet leaves out. Raises as `write`."""
    if not Verbosity.quiet:
        write_line(text)


def tell(*parts: object) -> None:
    """One line on stderr, "pdb-saliency: " and the parts, `printable`.

    The first part is "error", "note", "info" or the message itself; errors are red on a terminal, unless NO_COLOR is set.
    """
    if (parts[0] == "note" and Verbosity.quiet) or (parts[0] == "info" and not Verbosity.verbose):
        return
    text = printable(": ".join(map(str, ("pdb-saliency", *parts))))
    if parts[0] == "error" and _has_colours(sys.stderr):
        text = text.replace("error", "\x1b[31merror\x1b[0m", 1)
    _print(text, sys.stderr)


def progress_bar(desc: str = "", show: bool | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr; never with --quiet. show: None for where stderr is a terminal."""
    from tqdm import tqdm

    disable = True if Verbosity.quiet else None if show is None else not show
    return tqdm(dynamic_ncols=True, disable=disable, desc=printable(desc) or None, **options)


def _print(text: str, stream: TextIO, end: str = "\n") -> None:
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


def _has_colours(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()
