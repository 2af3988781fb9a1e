"""The frozen features of the first N samples on disk, so that stage temporal computes them only once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.runtime.progress import progress_bar

from .checkpoints import write_durably
from .config import TrainConfig
from .distributed import in_each, in_first
from .initial_model import weights_digest
from .loader import load_batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_NAME_BYTES = 200
_FILES = ("samples.bin", "done.bin")


class FeatureCache(Dataset):
    """Samples as SampleStream gives them, with "features" (tuple of float32 (T, c, h, w)) in place of "clip".

    Number n is sample n modulo config.cache. Features are stored as float16, masks as bytes, in one file of records; a
    second file has a byte for each record, 1 once it is complete, so that an interrupted build can go on.
    """

    def __init__(self, folder: Path, count: int, record: np.dtype):
        self._path, self._count, self._record = folder / _FILES[0], count, record
        self._records: np.memmap | None = None  # Each worker opens its own.

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict:
        if self._records is None:
            self._records = np.memmap(self._path, self._record, mode="r")
        entry = self._records[number % self._count]
        features = [
            torch.from_numpy(entry[name].astype(np.float32)) for name in self._record.names if name[:7] == "feature"
        ]
        return {
            "features": tuple(features),
            "mask": torch.from_numpy(entry["mask"].astype(np.float32)),
            "valid": torch.from_numpy(entry["valid"].copy()),
            "name": bytes(entry["name"]).decode(errors="replace"),
        }


def digest(model: SaliencyModel, config: TrainConfig) -> str:
    """SHA-256 of all that the cached features depend on: spatial weights, data, and how samples are made from them."""
    values = config.to_dict()
    names = ("cache", "length", "size", "seed", "augmentation", "data", "precision")
    temporal = ("temporal", "hidden_channels", "temporal_dilations")
    network = {name: value for name, value in values["model"].items() if name not in temporal}
    content = [values[name] for name in names] + [network, weights_digest(model.spatial)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def build_cache(
    fabric: Fabric, model: SaliencyModel, samples: Dataset, config: TrainConfig, folder: Path, workers: int = 0
) -> FeatureCache:
    """Fill the cache in `folder`, or use the one that is there if it has the same `digest`.

    model: on the fabric's device. Every process fills its share of the same files, so several machines must share the
    folder. workers: see `load_batches`.
    Raises OutputError if the disk is full or would be; SaliencyError for features beyond float16's range; InputError.
    """

    def encode(clip: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), fabric.autocast():
            return model.with_motion(model.encode(clip.to(fabric.device)), (1, len(clip)))

    first = samples[0]
    record = record_layout(first, encode(first["clip"]))
    in_first(fabric, lambda: _prepare(folder, digest(model, config), config.cache, record))
    share = range(fabric.global_rank, config.cache, fabric.world_size)
    in_each(fabric, lambda: fill_share(folder, record, samples, share, encode, workers, show=fabric.global_rank == 0))
    return FeatureCache(folder, config.cache, record)


def fill_share(
    folder: Path,
    record: np.dtype,
    samples: Dataset,
    share: Sequence[int],
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    workers: int,
    show: bool = False,
) -> None:
    """Compute the records `share` that are missing. encode: clip (T, 3, H, W) -> features. show: a progress bar."""
    try:
        done = np.fromfile(folder / _FILES[1], np.uint8)
    except OSError as error:
        raise OutputError(f"{folder}: the feature cache must be in a folder that all machines see") from error
    missing = [number for number in share if not done[number]]
    if missing:
        _fill(folder, record, samples, missing, encode, workers, show)


def record_layout(sample: dict, features: tuple[Tensor, ...]) -> np.dtype:
    """The layout of one sample in the file."""
    fields = [(f"feature{index}", "<f2", tuple(feature.shape)) for index, feature in enumerate(features)]
    length = len(sample["valid"])
    return np.dtype(
        [*fields, ("mask", "u1", tuple(sample["mask"].shape)), ("valid", "?", (length,)), ("name", f"S{_NAME_BYTES}")]
    )


def _prepare(folder: Path, wanted: str, count: int, record: np.dtype) -> None:
    """Make empty files for a new cache, unless those of the wanted one exist."""
    samples, done = (folder / name for name in _FILES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = json.loads((folder / "cache.json").read_text())["digest"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            found = None
        size = count * record.itemsize
        if found == wanted and done.stat().st_size == count and samples.stat().st_size == size:
            return
        (folder / "cache.json").unlink(missing_ok=True)
        samples.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OutputError(f"{folder}: {count} samples need {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        with open(samples, "wb") as file:
            file.truncate(size)
        done.write_bytes(bytes(count))
        write_durably(folder / "cache.json", json.dumps({"digest": wanted}).encode())
    except OSError as error:
        raise _unwritable(folder, error) from error


def _fill(
    folder: Path,
    record: np.dtype,
    samples: Dataset,
    missing: list[int],
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    workers: int,
    show: bool,
) -> None:
    bar = progress_bar("features", None if show else False, total=len(missing), unit="sample")
    loader = load_batches(samples, [[number] for number in missing], workers)
    try:
        with open(folder / _FILES[0], "r+b") as content, open(folder / _FILES[1], "r+b") as done, bar:
            for number, batch in zip(missing, loader):
                entry = _entry(record, batch, encode(batch["clip"][0]))
                # Written, not mapped: on a full disk a write fails, but a mapping kills the process.
                content.seek(number * record.itemsize)
                content.write(entry.tobytes())
                content.flush()
                os.fsync(content.fileno())
                done.seek(number)
                done.write(b"\x01")
                done.flush()
                bar.update()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _entry(record: np.dtype, batch: dict, features: tuple[Tensor, ...]) -> np.ndarray:
    entry = np.zeros((), record)
    for index, feature in enumerate(features):
        half = feature.half()
        if not torch.isfinite(half).all():
            raise SaliencyError(f"the features of {batch['name'][0]} do not fit into float16, so they cannot be cached")
        entry[f"feature{index}"] = half.cpu().numpy()
    entry["mask"] = batch["mask"][0].numpy()
    entry["valid"] = batch["valid"][0].numpy()
    entry["name"] = batch["name"][0].encode("utf-8", "replace")[:_NAME_BYTES]
    return entry


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: the feature cache cannot be written ({error.strerror or error})")
