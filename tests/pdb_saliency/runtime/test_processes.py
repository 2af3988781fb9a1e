"""The pool of processes: results, errors, and ending at any moment."""

import multiprocessing
import operator
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

import pytest

from pdb_saliency.runtime.processes import ProcessPool, ctrl_c_held


@pytest.fixture
def pool():
    made = ProcessPool(2)
    yield made
    made.kill()
    assert not multiprocessing.active_children()


def submit(pool, *call):
    with ctrl_c_held():
        return pool.submit(*call)


def test_every_future_has_its_own_answer(pool):
    futures = [submit(pool, pow, number, 2) for number in range(500)]
    assert [future.result(60) for future in futures] == [number**2 for number in range(500)]
    assert len(multiprocessing.active_children()) == 2


def test_errors_come_back_and_the_pool_goes_on(pool):
    with pytest.raises(ZeroDivisionError) as error:
        submit(pool, operator.truediv, 1, 0).result(60)
    assert "Traceback" in str(error.value.__cause__)
    with pytest.raises(TypeError, match="pickle"):
        submit(pool, threading.Lock).result(60)
    with pytest.raises(TypeError, match="pickle"):
        submit(pool, len, threading.Lock()).result(60)
    assert submit(pool, len, "abc").result(60) == 3


def test_a_cancelled_task_is_not_begun(pool, tmp_path):
    busy = [submit(pool, time.sleep, 0.5) for _ in range(2)]
    cancelled = submit(pool, os.mkdir, tmp_path / "made")
    assert cancelled.cancel()
    assert [future.result(60) for future in busy] == [None, None]
    assert submit(pool, len, "abc").result(60) == 3 and not (tmp_path / "made").exists()


def test_a_process_that_dies_breaks_the_pool(pool):
    futures = [submit(pool, time.sleep, 3600), submit(pool, os._exit, 3), submit(pool, len, "abc")]
    for future in futures:
        with pytest.raises(BrokenProcessPool):
            future.result(60)
    with pytest.raises(BrokenProcessPool):
        submit(pool, len, "abc")


def test_kill_waits_for_nothing(pool):
    """Neither for a task that never ends, nor for one that no process takes and that is too large for a pipe."""
    futures = [submit(pool, time.sleep, 3600) for _ in range(2)] + [submit(pool, len, bytes(10**7)) for _ in range(3)]
    while not all(future.running() for future in futures[:2]):
        time.sleep(0.01)
    begun = time.monotonic()
    pool.kill()
    assert time.monotonic() - begun < 10
    for future in futures:
        with pytest.raises(BrokenProcessPool):
            future.result(0)


@pytest.mark.slow
def test_kill_while_processes_start():
    """Twenty times at different moments, including before the first task has been read."""
    for moment in range(20):
        pool = ProcessPool(2)
        futures = [submit(pool, len, bytes(10**6)) for _ in range(6)]
        time.sleep(0.01 * moment)
        pool.kill()
        assert all(future.done() for future in futures)


def test_an_answer_that_cannot_be_received_breaks_the_pool(pool, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Connection, "recv_bytes", no_memory)
    with pytest.raises(BrokenProcessPool) as raised:
        submit(pool, len, "abc").result(60)
    assert isinstance(raised.value.__cause__, MemoryError)
