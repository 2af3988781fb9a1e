"""What the command line prints, on standard streams that may be closed, full, or in any encoding."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pdb_saliency.errors import OutputError
from pdb_saliency.runtime.progress import printable, show_progress

_LIBRARY = logging.getLogger("pdb_saliency")
_LOCK = threading.Lock()
_users = 0  # contexts of library_on_console, in all threads
_before: tuple = ()
_KINDS = {logging.INFO: "info", logging.WARNING: "note", logging.ERROR: "error"}


def prepare_streams() -> None:
    """Put the null device in place of closed standard streams, and let the others escape what they cannot encode."""
    # In the order of their descriptors, because each takes the lowest free number: a video that got number 1 or 2 would
    # receive what libraries print.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Verbosity:
    """What is printed besides errors and results: quiet leaves out everything, verbose adds details ("info")."""

    quiet = False
    verbose = False


def write_line(text: str) -> None:
    """One line on stdout, `printable`. Raises as `write`."""
    write(printable(text))


def write(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print lines at once, by default to stdout. Each is made `printable`.

    If stderr cannot be written, the work goes on in silence. For stdout, raises OutputError, or BrokenPipeError when
    its reader is gone.
    """
    _print("\n".join(map(printable, text.split("\n"))), stream or sys.stdout, end)


def say(text: str) -> None:
    """One line on stdout about what was done, which --quiet leaves out. Raises as `write`."""
    if not Verbosity.quiet:
        write_line(text)


def report(*parts: object) -> None:
    """Report something in one line on stderr: "pdb-saliency: " and the parts, `printable`.

    The first part is "error", "note", "info" or the message. Errors are red on a terminal unless NO_COLOR is set.
    """
    if (parts[0] == "note" and Verbosity.quiet) or (parts[0] == "info" and not Verbosity.verbose):
        return
    text = printable(": ".join(map(str, ("pdb-saliency", *parts))))
    if parts[0] == "error" and _has_colours(sys.stderr):
        text = text.replace("error", "\x1b[31merror\x1b[0m", 1)
    _print(text, sys.stderr)


class _Console(logging.Handler):
    """Passes the library's log to `report`, as "info", "note" (warnings), "error", or the kind that a record names."""

    def emit(self, record: logging.LogRecord) -> None:
        report(getattr(record, "kind", _KINDS.get(record.levelno, "error")), record.getMessage())


@contextmanager
def library_on_console() -> Iterator[None]:
    """Within this context the library's log and progress bars reach the user, as far as `Verbosity` allows."""
    global _users, _before
    with _LOCK:
        _users += 1
        if _users == 1:
            _before = _take_over_log(_Console())
    show_progress(not Verbosity.quiet)
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if _users == 0:
                show_progress(False)
                _give_back_log(*_before)


def _take_over_log(handler: logging.Handler) -> tuple[logging.Handler, int, bool, int]:
    """Sends the library's log to the handler alone; returns what `_give_back_log` needs."""
    before = handler, _LIBRARY.level, _LIBRARY.propagate, logging.root.manager.disable
    _LIBRARY.addHandler(handler)
    _LIBRARY.setLevel(logging.INFO)
    _LIBRARY.propagate = False  # Another library may have set up the root logger, which would print it again.
    # A program that has configured logging may have switched off loggers that it does not know.
    logging.disable(logging.NOTSET)
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "pdb_saliency"]:
        logging.getLogger(name).disabled = False
    return before


def _give_back_log(handler: logging.Handler, level: int, propagate: bool, disabled: int) -> None:
    _LIBRARY.removeHandler(handler)
    _LIBRARY.setLevel(level)
    _LIBRARY.propagate = propagate
    logging.disable(disabled)


def announce_stop() -> None:
    """Say on stderr that training stops after this step. Safe in signal handlers: it neither prints nor logs."""
    try:
        os.write(2, b"\npdb-saliency: stopping after this step; once more to stop at once, without saving\n")
    except OSError:
        pass


def _print(text: str, stream: TextIO, end: str = "\n") -> None:
    try:
        print(text, file=stream, end=end, flush=True)
    except OSError as error:
        # What is left in the buffer would fail again when Python flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error


def _has_colours(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()
