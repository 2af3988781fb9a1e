"""Measures checkpoints, and ready maps, on the paper's test sets."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError
from pdb_saliency.evaluation.pairs import truth_of
from pdb_saliency.evaluation.predictions import match
from pdb_saliency.evaluation.scoring import Rules, TaskScores, score_tasks
from pdb_saliency.inference.devices import move
from pdb_saliency.model.weights import load_model
from pdb_saliency.video.source import natural_key

from .maps import refine_maps, write_maps
from .tables import OURS_CRF, TABLES, rows_of

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".caffemodel")
_LONGEST_NAME = 50  # Of a label in the name of a folder, which may have 255 bytes.
_OF_RUN = "model.safetensors"  # What a finished training run leaves.


@dataclass(frozen=True)
class Method:
    """What made the maps.

    label: short, for plots. rows: table -> row. model: the network in words; `kind` is the same for all networks that
    differ in nothing but their weights. origin: the checkpoint and the start of its SHA-256, or the folder of maps.
    """

    label: str
    rows: dict[int, str]
    model: str
    kind: str
    origin: str


@dataclass(frozen=True)
class Measurement:
    """scores: on the test set scores.task.dataset. date: of the measurement, ISO."""

    method: Method
    scores: TaskScores
    date: str


@dataclass(frozen=True)
class Bench:
    """Where and how to measure.

    datasets: the paper's name -> data set. cache: folder of the maps. use_crf: measure "Ours+", too.
    """

    datasets: dict[str, Dataset]
    device: torch.device
    cache: Path
    rules: Rules
    workers: int
    use_crf: bool

    def measure_checkpoint(self, path: Path, label: str) -> list[Measurement]:
        """On every data set; nothing for a model that is in no table. Maps that an earlier run left in `cache` are kept.

        Raises WeightsError for a file that is no model, InputError, OutputError, SaliencyError.
        """
        model = load_model(path).eval()
        rows = rows_of(model.config)
        if not rows:
            return []
        digest = _digest(path)
        kind = json.dumps(dataclasses.asdict(model.config), sort_keys=True)
        untrained = f"; {model.untrained}" if model.untrained else ""
        method = Method(label, rows, model.description, kind, f"{label} (SHA-256 {digest}...){untrained}")
        folder = self.cache / f"{label.replace('/', '_')[:_LONGEST_NAME]}-{digest}"
        move(model, self.device)
        for name, dataset in self.datasets.items():
            write_maps(model, dataset, self.device, folder / name)
        measured = self._score(folder, method)
        if self.use_crf and 2 in rows:
            refined = folder.with_name(f"{folder.name}-crf")
            for name, dataset in self.datasets.items():
                refine_maps(dataset, folder / name, refined / name)
            with_crf = Method(
                f"{label} + CRF", {2: OURS_CRF}, f"{model.description}, CRF", f"{kind} crf", method.origin
            )
            measured += self._score(refined, with_crf)
        return measured

    def measure_maps(self, folder: Path) -> list[Measurement]:
        """Ready maps: folder/METHOD/TEST SET/SEQUENCE/FRAME.png. METHOD is a row of a table, in any case, or new to Table 1.

        Raises InputError where there are none, or some are missing.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of maps")
        measured = []
        for own in sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_key):
            known = {number: {row.lower(): row for row in table.rows} for number, table in TABLES.items()}
            rows = {number: names[own.name.lower()] for number, names in known.items() if own.name.lower() in names}
            measured += self._score(own, Method(own.name, rows or {1: own.name}, "ready maps", own.name, str(own)))
        if not measured:
            raise InputError(f"{folder}: no maps; expected METHOD/{next(iter(self.datasets))}/SEQUENCE/FRAME.png")
        return measured

    def _score(self, folder: Path, method: Method) -> list[Measurement]:
        measured = []
        for name, dataset in self.datasets.items():
            if (folder / name).is_dir():
                truth = dataclasses.replace(truth_of(dataset), name=name)
                task = match(method.label, folder / name, truth)
                if task.missing:
                    raise InputError(f"{folder / name}: {task.tell_missing()}")
                (scores,) = score_tasks([task], self.rules, self.workers)
                measured.append(Measurement(method, scores, datetime.date.today().isoformat()))
        return measured


def find_checkpoints(folder: Path) -> dict[str, Path]:
    """Label -> model file, for those in the folder and below. Raises InputError where there are none.

    The label is the path in the folder; of a training run's model.safetensors its folder. Such a run's best.safetensors is
    passed over: it was chosen by a validation, perhaps on the frames that are measured here.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of checkpoints")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in CHECKPOINT_SUFFIXES and path.is_file()]
    found = [path for path in found if not path.name.startswith(".") and not _is_best_of_run(path)]
    if not found:
        raise InputError(f"{folder}: no checkpoint; expected files ending in {', '.join(CHECKPOINT_SUFFIXES)}")
    return {_label(path, folder): path for path in sorted(found, key=natural_key)}


def without_copies(checkpoints: dict[str, Path], remark: Callable[[str], None]) -> dict[str, Path]:
    """Those whose files differ: a copy would count as one more seed, without any spread. remark: told of each copy."""
    first: dict[str, str] = {}
    kept = {}
    for label, path in checkpoints.items():
        try:
            digest = _digest(path)
        except OSError:  # What is wrong with it is told when it is loaded.
            digest = label
        if first.setdefault(digest, label) == label:
            kept[label] = path
        else:
            remark(f"{label}: a copy of {first[digest]}")
    return kept


def _is_best_of_run(path: Path) -> bool:
    return path.name == "best.safetensors" and path.with_name(_OF_RUN).is_file()


def _label(path: Path, folder: Path) -> str:
    named = path.parent if path.name == _OF_RUN and path.parent != folder else path
    return str(named.relative_to(folder))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:10]
