"""Stages of a stream that run at the same time, in threads with bounded queues between them; transfers from GPUs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_POLL = 0.1  # Seconds after which a waiting stage checks whether it is still wanted.
_PATIENCE = 1.0  # Seconds to wait for a stage that may hang in a source, such as a camera that stopped sending.


class Stopped(Exception):
    """The reader of the pipeline is gone."""


class Pipeline:
    """Makes iterators run ahead of their reader. All of one pipeline stop together::

        with Pipeline() as pipeline:
            decoded = pipeline.ahead(source, 2)
            for item in pipeline.ahead(transform(decoded), 2):
                ...

    Leaving the block for any reason ends all stages: a stage that computes finishes its item first, a stage that
    waits ends at once, and a stage that hangs in a caller's source for more than a second is left behind as a
    daemon thread.
    """

    def __init__(self):
        self._stop = threading.Event()
        self._stages: list[_Stage] = []

    def ahead(self, items: Iterable[T], depth: int, *, may_hang: bool = False) -> Iterator[T]:
        """The items in order, up to `depth` of them computed before they are asked for.

        An exception that `items` raises is raised here, after the items before it. may_hang: `items` may block forever.
        """
        stage = _Stage(items, depth, self._stop, may_hang)
        self._stages.append(stage)
        return iter(stage)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for stage in reversed(self._stages):
            stage.thread.join(_PATIENCE if stage.may_hang else None)


class _Stage(Generic[T]):
    def __init__(self, items: Iterable[T], depth: int, stop: threading.Event, may_hang: bool):
        self.may_hang = may_hang
        self._items = items
        self._queue: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
        self._stop = stop
        self.thread = threading.Thread(target=self._run, daemon=True, name="pdb-saliency stage")
        self.thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            is_item, value = self._get()
            if is_item:
                yield value
            elif value is None:
                return
            else:
                raise value

    def _run(self) -> None:
        iterator = None
        try:
            iterator = iter(self._items)
            for item in iterator:
                self._put((True, item))
            self._put((False, None))
        except Stopped:
            pass
        except BaseException as error:  # The reader must get any exception.
            self._put_last((False, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()  # In this thread, where a file or a decoder was opened.

    def _put_last(self, entry) -> None:
        try:
            self._put(entry)
        except Stopped:
            pass

    def _put(self, entry) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(entry, timeout=_POLL)
            except queue.Full:
                continue
        raise Stopped

    def _get(self):
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=_POLL)
            except queue.Empty:
                continue
        raise Stopped


@dataclass(frozen=True)
class Landing:
    """A tensor in transfer from a GPU to the CPU. Waiting for it does not wait for later launches.

    A plain `.cpu()` at the time of use would wait for everything that another thread has launched in the meantime.
    arrived: the event on the GPU's stream after the transfer; None for tensors of other devices.
    """

    tensor: Tensor
    arrived: torch.cuda.Event | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Landing:
        """Begin the transfer, on the stream that computes the tensor."""
        if tensor.device.type != "cuda":
            return cls(tensor.cpu())
        landed = tensor.to("cpu", non_blocking=True)  # PyTorch puts it into pinned memory.
        return cls(landed, torch.cuda.current_stream(tensor.device).record_event())

    def wait(self) -> Tensor:
        """The tensor, on the CPU. Raises RuntimeError if the GPU has failed."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor
