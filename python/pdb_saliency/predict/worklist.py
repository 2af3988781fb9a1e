"""Many videos in one run, divided among the processes that `torchrun` starts."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pdb_saliency.errors import InputError, SaliencyError

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    ".3gp .apng .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)


@dataclass(frozen=True)
class Job:
    """One video. source: as for `open_source`. out: the folder for its results. label: its name in messages."""

    source: str
    out: Path
    label: str


@dataclass(frozen=True)
class Share:
    """This process's part of the work: every `world`-th job, from number `rank`."""

    rank: int = 0
    world: int = 1

    @classmethod
    def from_environment(cls) -> Share:
        """From torchrun's RANK and WORLD_SIZE. Raises SaliencyError if they do not fit together."""
        texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not all(text.isdigit() for text in texts) or not int(texts[0]) < int(texts[1]):
            raise SaliencyError(f"RANK must be below WORLD_SIZE, got RANK={texts[0]} WORLD_SIZE={texts[1]}")
        return cls(*map(int, texts))


def find_jobs(inputs: Sequence[str], lists: Sequence[Path], out: Path) -> list[Job]:
    """A job for every video: first those of `inputs`, then those of the text files `lists`.

    lists: one video per line; empty lines and lines that begin with # are ignored. A folder that has no pictures itself
    stands for the videos in it and for its folders of pictures.

    A single video of `inputs` is written to `out`. Several get a folder each below it, named after the videos without
    their suffixes; if these names are not all different, after the videos with their suffixes; and if those are not
    either, by the paths below the folder that they have in common.

    Raises InputError: a list that cannot be read, nothing to do, the same video twice.
    """
    named = [*inputs, *(line for file in lists for line in _lines(file))]
    sources = [source for text in named for source in _expand(text)]
    if not sources:
        raise InputError("no video is named")
    if len(sources) == 1 and not lists and sources == list(inputs):
        return [Job(sources[0], out, sources[0])]
    first: dict[str, str] = {}
    for source in sources:
        path = os.path.abspath(source)
        if path in first:
            raise InputError(
                f"{source} is named more than once" + (f", also as {first[path]}" if first[path] != source else "")
            )
        first[path] = source
    return [Job(source, out / name, source) for source, name in zip(sources, _names(sources))]


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a text file: a list has one path per line") from error
    return [line for line in lines if line and not line.startswith("#")]


def _expand(text: str) -> list[str]:
    """The videos in a folder without pictures; anything else stands for itself."""
    from pdb_saliency.video.source import natural_key

    folder = Path(text)
    try:
        if not folder.is_dir() or _holds_pictures(folder):
            return [text]
        entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural_key)
        found = [str(e) for e in entries if e.suffix.lower() in VIDEO_SUFFIXES or e.is_dir() and _holds_pictures(e)]
    except OSError as error:
        raise InputError(f"{error.filename or text}: cannot be read ({error.strerror})") from error
    return found or [text]


def _holds_pictures(folder: Path) -> bool:
    from pdb_saliency.video.pictures import IMAGE_SUFFIXES  # With OpenCV, which --help need not wait for.

    return any(entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") for entry in folder.iterdir())


def _names(sources: list[str]) -> list[str]:
    from pdb_saliency.video.pictures import IMAGE_SUFFIXES

    paths = [Path(os.path.abspath(source)) for source in sources]
    common = Path(os.path.commonpath([path.parent for path in paths]))
    schemes = (
        [path.stem if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES else path.name for path in paths],
        [path.name for path in paths],
        [str(path.relative_to(common)) for path in paths],
    )
    # Compared without regard to case, because some file systems ignore it.
    return next((names for names in schemes if len({name.casefold() for name in names}) == len(names)), schemes[-1])


def work_through(jobs: Sequence[Job], share: Share, process: Callable[[Job], str], done: Callable[[str], None]) -> None:
    """Do this process's jobs in turn, then wait for the other processes.

    process: does one job and returns a line for the user, which goes to `done`. If it raises an error, that is logged
    and the next job begins.
    Raises SaliencyError, in every process, if a job of any process has failed. It does so only at the end, because
    torchrun stops all processes when one fails.
    """
    failed = 0
    for index in range(share.rank, len(jobs), share.world):
        head = f"[{index + 1}/{len(jobs)}] {jobs[index].label}"
        try:
            line = process(jobs[index])
        except SaliencyError as error:
            failed += 1
            _log.error("%s: %s", head, error)
            continue
        except Exception as error:  # A defect, or too little memory: no reason to give up the other videos.
            failed += 1
            _log.error("%s: %s", head, traceback.format_exception_only(error)[-1].strip())
            continue
        done(f"{head}: {line}")
    total = _sum_over_processes(failed, share)
    if total:
        raise SaliencyError(f"{total} of {len(jobs)} videos failed")


def _sum_over_processes(failed: int, share: Share) -> int:
    if share.world == 1 or "MASTER_ADDR" not in os.environ:
        return failed
    import torch
    from torch import distributed

    # The other processes may need days.
    distributed.init_process_group("gloo", timeout=timedelta(days=100))
    total = torch.tensor(failed)
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    return int(total)
