"""For programs with several processes: a pool, signal handling, and a reliable end of all of them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from .isolation import isolate_multiprocessing

_DIED = "a process of the pool was killed"


@contextmanager
def ctrl_c_held() -> Iterator[None]:
    """Ctrl-C waits until the end of the context. Processes started meanwhile never see it: the parent answers it."""
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
    """The first SIGTERM, as batch systems and containers send it, raises KeyboardInterrupt; the next acts as before."""
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


class ProcessPool:
    """Up to `workers` processes, each started with one of the first tasks. They take no code from the current folder.

    They end with this process, even if that is killed, and they can be killed at any moment: each has its own pipe,
    which a thread of this process serves, so that no process can die while holding a lock that others wait for.

    concurrent.futures.ProcessPoolExecutor has queues that its processes share, and before Python 3.14 it can be killed
    only through private attributes. loky can be killed, but starts its processes with `python -m`, which looks for
    modules in the current folder first.

    initializer: is called in each process before its first task. `kill` must be called in the end.
    """

    def __init__(self, workers: int, initializer: Callable[[], None] | None = None):
        isolate_multiprocessing()
        self._context = multiprocessing.get_context(
            "spawn"
        )  # A forked process would inherit the locks of running threads.
        self._most, self._initializer = workers, initializer
        self._tasks: queue.SimpleQueue[tuple[Future, tuple] | None] = queue.SimpleQueue()
        self._workers: list[tuple[BaseProcess, threading.Thread]] = []
        self._lock = threading.Lock()
        self._broken = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """The future result of function(*arguments), or the exception that it raises.

        Call it within `ctrl_c_held`, because it may start a process. Once a process has died, this method and all
        futures without a result raise BrokenProcessPool.
        """
        future: Future = Future()
        with self._lock:
            if self._broken:
                raise BrokenProcessPool(_DIED)
            if len(self._workers) < self._most:
                self._workers.append(self._start())
            self._tasks.put((future, (function, arguments)))
        return future

    def kill(self) -> None:
        """End all processes at once, whatever they are doing."""
        self._break()
        for _, thread in self._workers:
            thread.join()
        for process, _ in self._workers:
            process.join()

    def _start(self) -> tuple[BaseProcess, threading.Thread]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._initializer), daemon=True)
        process.start()
        theirs.close()  # Now only the process has this end, so that its death closes the pipe.
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        thread.start()
        return process, thread

    def _serve(self, connection: Connection) -> None:
        """Hand tasks to one process and receive their results, until the end of the pool."""
        with connection:
            while task := self._tasks.get():
                future, call = task
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    message = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
                except Exception as error:
                    future.set_exception(error)
                    continue
                try:
                    connection.send_bytes(message)
                    answer = connection.recv_bytes()
                    outcome = _outcome(answer)
                except BaseException as error:  # The process has died, or there is no memory here for its answer.
                    failure = BrokenProcessPool(_DIED)
                    failure.__cause__ = error
                    future.set_exception(failure)
                    self._break()
                    return
                _settle(future, *outcome)

    def _break(self) -> None:
        """Kill all processes, and fail the tasks that none of them has begun."""
        with self._lock:
            self._broken = True
        for process, _ in self._workers:
            process.kill()
        while not self._tasks.empty():
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:  # Another thread took it.
                break
            if task and task[0].set_running_or_notify_cancel():
                task[0].set_exception(BrokenProcessPool(_DIED))
        for _ in self._workers:
            self._tasks.put(None)


def _outcome(answer: bytes) -> tuple[Any, BaseException | None, str | None]:
    """The result, the error, and the error's traceback."""
    try:
        return pickle.loads(answer)
    except Exception as error:
        return None, error, None


def _settle(future: Future, result: Any, error: BaseException | None, where: str | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        error.__cause__ = RuntimeError(f"in a process of the pool:\n{where}") if where else None
        future.set_exception(error)


def leave_with_parent() -> None:
    """Make this process, which multiprocessing has started, end when its parent does."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(connection: Connection, initializer: Callable[[], None] | None) -> None:
    """What a process of a pool does until it is killed, or its parent closes the pipe."""
    leave_with_parent()
    if initializer:
        initializer()
    try:
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))
    except (EOFError, OSError):
        return


def _answer(message: bytes) -> bytes:
    """The pickled result, error and traceback of a pickled task."""
    try:
        function, arguments = pickle.loads(message)
        return pickle.dumps((function(*arguments), None, None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        where = traceback.format_exc()
        try:
            return pickle.dumps((None, error, where))
        except Exception:
            return pickle.dumps((None, RuntimeError(repr(error)), where))
