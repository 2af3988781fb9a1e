"""Which samples make up a step, and how they are loaded."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pdb_saliency.errors import InputError

_GRACE = 30  # seconds


@dataclass(frozen=True)
class Share:
    """This process's share of every step; the samples [step * batch, (step + 1) * batch) are divided in order of rank.

    Raises InputError if they cannot be divided evenly.
    """

    rank: int
    world: int
    batch: int

    def __post_init__(self):
        if self.batch % self.world:
            raise InputError(
                f"a batch of {self.batch} samples cannot be shared by {self.world} processes: "
                f"expected --batch with a multiple of {self.world}"
            )

    def numbers(self, step: int) -> range:
        size = self.batch // self.world
        start = step * self.batch + self.rank * size
        return range(start, start + size)


class StepSampler(Sampler):
    """Lists of sample numbers, one for each step from `start` to `steps` - 1."""

    def __init__(self, share: Share, start: int, steps: int):
        self.share, self.start, self.steps = share, start, steps

    def __iter__(self) -> Iterator[list[int]]:
        return (list(self.share.numbers(step)) for step in range(self.start, self.steps))

    def __len__(self) -> int:
        return max(self.steps - self.start, 0)


def load_batches(
    samples: Dataset, numbers: Sampler | list[list[int]], workers: int, pin: bool = False
) -> Iterator[dict]:
    """The batches that `numbers` lists, made by `workers` processes (0: by this one). pin: in page-locked memory.

    A sample is a function of its number, so neither the number of workers nor an interruption changes anything.
    Raises the InputError of a sample that cannot be made.
    """
    # Threads of the parent may hold locks while a worker is forked; that is safe, because the workers use neither CUDA
    # nor the thread pool.
    loader = DataLoader(
        _Guarded(samples), batch_sampler=numbers, num_workers=workers, pin_memory=pin, collate_fn=_collate,
        worker_init_fn=_prepare_worker, prefetch_factor=2 if workers else None,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, InputError):
            raise InputError(str(batch))
        yield batch


class _Guarded(Dataset):
    """Samples, or the InputError of a sample as a value: the loader would wait for a worker that raises."""

    def __init__(self, samples: Dataset):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> dict | InputError:
        try:
            return self._samples[number]
        except InputError as error:
            return error.with_traceback(None)


def _collate(samples: list[dict | InputError]) -> dict | InputError:
    return next((sample for sample in samples if isinstance(sample, InputError)), None) or default_collate(samples)


def _prepare_worker(_: int) -> None:
    import cv2

    # One thread each: the workers already run in parallel.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group; the main process ends its workers once it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So may SIGTERM from a batch system, which ends a worker as well, but only after the main process had time to save.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
