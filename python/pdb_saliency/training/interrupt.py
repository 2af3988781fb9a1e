"""Ctrl-C takes effect between two steps, not within one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class StopRequest:
    """In this context the first SIGINT or SIGTERM sets `asked`; the next one acts as it would outside.

    In other threads than the main one it does nothing.
    """

    def __init__(self):
        self.asked = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()
        try:  # Neither print nor logging, which the signal may have interrupted.
            os.write(2, b"\npdb-saliency: stopping after this step; once more to stop at once, without saving\n")
        except OSError:
            pass

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
