"""What programs of several processes need: answers to signals, and an end for everybody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Ctrl-C waits until the end; processes started meanwhile leave it to this one, which tells the user."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """The first SIGTERM, as of a batch system or a container, raises KeyboardInterrupt, too; the next one acts as before."""
    heeds = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not heeds:
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def kill_pool(pool: ProcessPoolExecutor) -> None:
    """End the pool at once: its `shutdown` waits for what its processes are at, and for one more task of each."""
    for process in list((pool._processes or {}).values()):  # From Python 3.14 on it has `kill_workers`.
        process.kill()
    # Its threads in this process would wait for ever at pipes whose other ends only this process holds any more: the one
    # that receives results for the rest of one, the one that sends tasks for a reader. The first lets the second go when it
    # sees a process dead, except in Python 3.10; to close the same pipe beside it would be a race.
    pool._result_queue._writer.close()
    if pool._executor_manager_thread:
        pool._executor_manager_thread.join(1)
    pool._call_queue._reader.close()
    pool.shutdown(wait=True, cancel_futures=True)


def leave_with_parent() -> None:
    """The initializer of a pool's processes, which would outlive a parent that is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
