"""What several processes must do together, so that none of them waits for one that has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from pdb_saliency.errors import SaliencyError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Result = TypeVar("Result")


def in_first(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """What `work` returns in the first process, for all of them. It must be picklable.

    Where it raises a SaliencyError there, the others end without a word (SystemExit): one process tells the user.
    """
    result, error = None, None
    if fabric.global_rank == 0:
        try:
            result = work()
        except SaliencyError as raised:
            error = raised
    if fabric.world_size > 1:
        failed, result = fabric.broadcast((error is not None, result))
        if failed and not error:
            raise SystemExit(1)
    if error:
        raise error
    return result


def in_each(fabric: Fabric, work: Callable[[], Result]) -> list[Result]:
    """What `work` returns in each process, in order of rank, for all of them. It must be picklable.

    Where it raises a SaliencyError in any of them, the first process raises that, and the others end (SystemExit).
    """
    result, error = None, None
    try:
        result = work()
    except SaliencyError as raised:
        error = raised
    outcomes = [(error, result)] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(outcomes, (error, result))
    error = next((raised for raised, _ in outcomes if raised), None)
    if error and fabric.global_rank:
        raise SystemExit(1)
    if error:
        raise error
    return [result for _, result in outcomes]
