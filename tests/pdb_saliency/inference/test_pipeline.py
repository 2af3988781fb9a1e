"""Stages in threads: order, bounds, exceptions, and that they always end."""

import itertools
import threading
import time

import pytest

from pdb_saliency.inference.pipeline import Pipeline


def stages():
    return [thread for thread in threading.enumerate() if thread.name == "pdb-saliency stage"]


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_order_and_completeness():
    with Pipeline() as pipeline:
        first = pipeline.ahead(range(1000), 3)
        assert list(pipeline.ahead((2 * i for i in first), 2)) == list(range(0, 2000, 2))
    assert not stages()


def test_no_more_than_depth_items_wait():
    made = []
    with Pipeline() as pipeline:
        items = pipeline.ahead((made.append(i) or i for i in itertools.count()), 3)
        assert until(lambda: len(made) == 4) and not until(lambda: len(made) > 4, 0.2), "three wait, one is held"
        assert next(items) == 0
        assert until(lambda: len(made) == 5) and not until(lambda: len(made) > 5, 0.2)
    assert not stages()


@pytest.mark.parametrize("error", [ValueError("at 3"), KeyboardInterrupt(), MemoryError()])
def test_an_exception_comes_after_the_items_before_it(error):
    def items():
        yield from range(3)
        raise error

    seen = []
    with pytest.raises(type(error)) as caught, Pipeline() as pipeline:
        for item in pipeline.ahead(pipeline.ahead(items(), 1), 1):
            seen.append(item)
    assert seen == [0, 1, 2] and caught.value is error and not stages()


def test_leaving_closes_the_source_in_its_own_thread():
    closed_in = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed_in.append(threading.current_thread().name)

    with pytest.raises(RuntimeError, match="reader"), Pipeline() as pipeline:
        for _ in pipeline.ahead(pipeline.ahead(items(), 2), 2):
            raise RuntimeError("reader")
    assert closed_in == ["pdb-saliency stage"] and not stages()


def test_a_source_that_hangs_is_left_behind():
    release = threading.Event()

    def items():
        yield 0
        release.wait()

    begin = time.monotonic()
    with Pipeline() as pipeline:
        assert next(pipeline.ahead(pipeline.ahead(items(), 1, may_hang=True), 1)) == 0
    assert time.monotonic() - begin < 5
    release.set()
    assert until(lambda: not stages())


def test_stages_run_at_the_same_time():
    """Each stage waits until the other one is running, too."""
    meeting = threading.Barrier(2, timeout=5)

    def meet(items):
        for item in items:
            meeting.wait()
            yield item

    with Pipeline() as pipeline:
        first = pipeline.ahead(meet(range(4)), 4)
        for _ in range(4):
            meeting.wait()
        assert list(first) == [0, 1, 2, 3]
