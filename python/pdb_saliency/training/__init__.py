"""Training: the paper's loss, its two stages and a third one, and everything that a run writes and resumes from.

`train` is the whole of it as one function call; `pdb-saliency train` is its command line.
"""

from __future__ import annotations

import importlib

# Where each public name is defined. Names are imported on first use, because they need torch.
_MODULES = {
    "InitialModel": "run",
    "RunOptions": "config",
    "Sources": "run",
    "TrainConfig": "config",
    "modern": "config",
    "paper": "config",
    "preset": "config",
    "preview_samples": "run",
    "train": "run",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
