"""Ctrl-C takes effect between two steps, not within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class StopRequest:
    """In this context the first SIGINT or SIGTERM sets `asked`; the next one acts as it would outside.

    In other threads than the main one it does nothing.
    announce: called by the signal handler, so it may neither print nor log, which the signal may have interrupted.
    """

    def __init__(self, announce: Callable[[], None] | None = None):
        self.asked = False
        self._announce = announce
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
        if self._announce:
            self._announce()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
