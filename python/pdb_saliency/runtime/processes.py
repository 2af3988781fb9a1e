"""What programs of several processes need: a start, answers to signals, and an end for everybody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from .isolation import isolate_multiprocessing


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


def leave_with_parent() -> None:
    """The initializer of a pool's processes, which would outlive a parent that is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def make_pool(workers: int, initializer: Callable[[], None] = leave_with_parent) -> ProcessPoolExecutor:
    """Its processes start with the first tasks; none of them takes code from the current folder."""
    isolate_multiprocessing()
    context = multiprocessing.get_context("spawn")  # A forked process would inherit the locks of running threads.
    return ProcessPoolExecutor(workers, context, initializer)


def kill_pool(pool: ProcessPoolExecutor) -> None:
    """End the pool at once: its `shutdown` waits for what its processes are at, and for one more task of each."""
    thread, tasks, results = pool._executor_manager_thread, pool._call_queue, pool._result_queue
    processes = list((pool._processes or {}).values())  # From Python 3.14 on it has `kill_workers`.
    # Its thread first lets go of the tasks that were not begun: when it sees a process dead it marks as failed what it still
    # has, and one of these that somebody has cancelled would be an error there.
    pool.shutdown(wait=False, cancel_futures=True)
    latest = time.monotonic() + 1
    while thread and thread.is_alive() and pool._cancel_pending_futures and time.monotonic() < latest:
        time.sleep(0.001)
    for process in processes:
        process.kill()
    # The threads in this process would wait for ever at pipes whose other ends only this process holds any more: the one
    # that receives results for the rest of one, the one that sends tasks for a reader. The first lets the second go when it
    # sees a process dead, except in Python 3.10; to close the same pipe beside it would be a race.
    results._writer.close()
    if thread:
        thread.join(1)
    tasks._reader.close()
    if thread:
        thread.join()
