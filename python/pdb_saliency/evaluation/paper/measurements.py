"""Measures checkpoints and existing maps on the paper's test sets."""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.pairs import match, truth_of
from pdb_saliency.evaluation.scoring import Rules, TaskScores, score_tasks
from pdb_saliency.inference.devices import move
from pdb_saliency.model.weights import load_model
from pdb_saliency.runtime.files import sha256_of
from pdb_saliency.video.source import natural_key

from .maps import refine_maps, write_maps
from .tables import OURS_CRF, TABLES, rows_of

_DIGEST_LENGTH = 10  # Hexadecimal digits of the SHA-256 that identify a checkpoint.
_LONGEST_NAME = 50  # Characters of a label in a folder's name, which may have 255 bytes.


@dataclass(frozen=True)
class Method:
    """How the maps were made.

    label: short, for plots. rows: table -> row. model: the network in words. kind: the same for all networks that
    differ only in their weights. origin: the checkpoint and the beginning of its SHA-256, or the folder of the maps.
    """

    label: str
    rows: dict[int, str]
    model: str
    kind: str
    origin: str


@dataclass(frozen=True)
class Measurement:
    """scores: on the test set scores.task.dataset. date: of the measurement, ISO 8601."""

    method: Method
    scores: TaskScores
    date: str


@dataclass(frozen=True)
class Evaluator:
    """Where and how to measure.

    datasets: the paper's name -> data set. cache: folder of the maps. workers: processes that score. use_crf: measure
    "Ours+" as well.
    """

    datasets: dict[str, Dataset]
    device: torch.device
    cache: Path
    rules: Rules
    workers: int
    use_crf: bool

    def measure_checkpoint(self, path: Path, label: str) -> list[Measurement]:
        """Measure a checkpoint on every data set; empty if the model belongs to no table.

        Maps that an earlier run left in `cache` are used again.
        Raises WeightsError if the file is not a model; InputError, OutputError, SaliencyError.
        """
        model = load_model(path).eval()
        rows = rows_of(model.config)
        if not rows:
            return []
        digest = short_digest(path)
        kind = json.dumps(dataclasses.asdict(model.config), sort_keys=True)
        untrained = f"; {model.untrained}" if model.untrained else ""
        method = Method(label, rows, model.description, kind, f"{label} (SHA-256 {digest}...){untrained}")
        folder = self.cache / f"{label.replace('/', '_')[:_LONGEST_NAME]}-{digest}"
        move(model, self.device)
        for name, dataset in self.datasets.items():
            write_maps(model, dataset, self.device, folder / name)
        measured = self._score(folder, method)
        if self.use_crf and 2 in rows:
            measured += self._measure_refined(folder, method)
        return measured

    def measure_maps(self, folder: Path) -> list[Measurement]:
        """Measure the maps folder/METHOD/TEST SET/SEQUENCE/FRAME.png.

        METHOD is a row of a table, in upper or lower case, or else becomes a new row of Table 1.
        Raises InputError if there are none, or if some are missing.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of maps")
        known = {number: {row.lower(): row for row in table.rows} for number, table in TABLES.items()}
        measured = []
        for own in sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_key):
            rows = {number: names[own.name.lower()] for number, names in known.items() if own.name.lower() in names}
            measured += self._score(own, Method(own.name, rows or {1: own.name}, "ready maps", own.name, str(own)))
        if not measured:
            raise InputError(f"{folder}: no maps; expected METHOD/{next(iter(self.datasets))}/SEQUENCE/FRAME.png")
        return measured

    def _measure_refined(self, folder: Path, method: Method) -> list[Measurement]:
        """The maps in `folder` after the CRF."""
        refined = folder.with_name(f"{folder.name}-crf")
        for name, dataset in self.datasets.items():
            refine_maps(dataset, folder / name, refined / name)
        label, model, kind = f"{method.label} + CRF", f"{method.model}, CRF", f"{method.kind} crf"
        return self._score(refined, Method(label, {2: OURS_CRF}, model, kind, method.origin))

    def _score(self, folder: Path, method: Method) -> list[Measurement]:
        measured = []
        for name, dataset in self.datasets.items():
            if (folder / name).is_dir():
                truth = dataclasses.replace(truth_of(dataset), name=name)
                task = match(method.label, folder / name, truth)
                if task.missing:
                    raise InputError(f"{folder / name}: {task.describe_missing()}")
                (scores,) = score_tasks([task], self.rules, self.workers)
                measured.append(Measurement(method, scores, datetime.date.today().isoformat()))
        return measured


def short_digest(path: Path) -> str:
    """The beginning of a file's SHA-256. Raises OSError."""
    return sha256_of(path)[:_DIGEST_LENGTH]
