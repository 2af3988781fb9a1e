"""The entry point of `pdb-saliency`. Imports next to nothing, so that Ctrl-C is answered well from the first moment."""

from __future__ import annotations

import os
import sys

from pdb_saliency.runtime.isolation import isolate

_INTERRUPTED = 130


def main() -> int:
    """`cli.main`, but Ctrl-C gives no traceback while the program is loading or ending either; also calls `isolate`.

    Call it only when run as the main program. Another program, whose child processes may look for modules beside it,
    calls cli.main.
    """
    isolate()
    import signal

    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # A shell's background job ignores it.
    if heeds:
        signal.signal(signal.SIGINT, _leave)
    from .program import main as run

    if not heeds:
        return run()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:  # The second one, while the first was being answered.
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(number: int, frame: object) -> None:
    """Nothing has been written yet, so there is nothing to clear up."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"pdb-saliency: interrupted\n")
    os._exit(_INTERRUPTED)
