"""Training: the paper's loss, its two stages and a third one, and everything that a run writes and resumes from.

`train` is the whole of it as one function call; `pdb-saliency train` is its command line.
"""

from __future__ import annotations

from pdb_saliency.runtime.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
