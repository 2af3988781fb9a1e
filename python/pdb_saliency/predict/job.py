"""The main job: saliency of every frame of a source, in a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from torch import nn

from pdb_saliency.errors import InputError
from pdb_saliency.inference.engine import Engine, move, resolve_device
from pdb_saliency.options import EngineOptions
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.frame import Frame, Source

__all__ = ["move", "resolve_device", "run", "saliency_maps"]


def authors_engine(model: nn.Module, device: torch.device) -> Engine:
    """With the authors' clips of five, in float32 on every device. It keeps the weights that the model has now."""
    return Engine(model, device, EngineOptions(precision="float32"))


def saliency_maps(
    frames: Iterable[Frame], model: nn.Module, device: torch.device
) -> Iterator[tuple[Frame, np.ndarray]]:
    """`Engine.maps` of `authors_engine`. model: a SaliencyModel. For many videos make the engine once."""
    return authors_engine(model, device).maps(frames)


def run(source: Source, engine: Engine, writer: ResultWriter, progress: bool = True) -> None:
    """Write the results of every frame of the source and finish the writer.

    progress: a bar on stderr, where that is a terminal and not --quiet.
    Raises InputError for a frame that cannot be read, after everything before it has been written; OutputError;
    SaliencyError.
    """
    with progress_bar(show=None if progress else False, total=source.count, unit="frame") as bar:
        try:
            with closing(engine.maps(source)) as maps:
                for frame, saliency in maps:
                    writer.write(frame, saliency)
                    bar.update()
        except InputError as error:
            writer.finish()
            raise InputError(f"{error}; {_frames(writer.frames)} written to {writer.out}") from error
    writer.finish()


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
