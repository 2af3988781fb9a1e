"""Reproduces the paper's tables: measures checkpoints and maps, and writes the results beside the paper's numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.data.sets.check import check_dataset
from pdb_saliency.data.sets.items import Dataset
from pdb_saliency.errors import InputError, SaliencyError, WeightsError
from pdb_saliency.evaluation.plot import check_plot, curves_of, plot_curves
from pdb_saliency.evaluation.scoring import Rules
from pdb_saliency.inference import crf
from pdb_saliency.inference.devices import resolve_device
from pdb_saliency.options import PAPER_TABLES
from pdb_saliency.runtime.files import check_file, write_file
from pdb_saliency.video.source import natural_key

from .comparison import markdown, to_json
from .datasets import PAPER_SETS, find_paper_sets
from .measurements import Evaluator, Measurement, short_digest

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".caffemodel")
_OF_RUN = "model.safetensors"  # Left by a finished training run.
_PAGES = {"tables.md": markdown, "tables.json": to_json}
_FIGURES = ("figure4.png", "figure4.pdf")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reproduction:
    """files: those written, in order."""

    measurements: list[Measurement]
    files: list[Path]


def reproduce(
    out: Path,
    *,
    data_root: Path | None = None,
    places: Mapping[str, str] | None = None,
    checkpoints: Path | None = None,
    maps: Path | None = None,
    tables: Sequence[int] = PAPER_TABLES,
    figure: bool = True,
    use_crf: bool = True,
    rules: Rules = Rules(),
    device: str = "auto",
    workers: int = 1,
    broken: str = "refuse",
) -> Reproduction:
    """Measure checkpoints and maps on the paper's test sets; write tables.md, tables.json and figure4 to `out`.

    data_root, places: see `find_paper_sets`. checkpoints: folder, see `find_checkpoints`; their maps are kept in
    out/maps, so that an interrupted run continues where it was. maps: folder of existing maps, see
    `Evaluator.measure_maps`. figure: write the precision-recall plots as well. use_crf: measure "Ours+" if Table 2 is
    wanted and the CRF is installed. device: as for `resolve_device`. workers: processes that score. broken: "refuse" or
    "skip", as for `check_dataset`.

    Raises InputError, OutputError, and SaliencyError without matplotlib (for the figure) or a usable device.
    """
    if figure:
        check_plot(out / _FIGURES[0])
    for name in (*_PAGES, *_FIGURES):
        check_file(out / name)
    datasets = find_paper_sets(data_root, dict(places or {}))
    for name, paper_set in PAPER_SETS.items():
        _log.warning("%s: %s", name, paper_set.describe(datasets[name]) if name in datasets else "absent")
    if checkpoints or maps:
        datasets = {name: check_dataset(dataset, broken=broken) for name, dataset in datasets.items()}
    found = without_copies(find_checkpoints(checkpoints)) if checkpoints else {}
    use_crf = use_crf and 2 in tables and bool(found) and _has_crf()
    evaluator = Evaluator(datasets, resolve_device(device), out / "maps", rules, workers, use_crf)
    ready = evaluator.measure_maps(maps) if maps else []  # First, because they may be refused at once.
    measured = _measure(evaluator, found)
    if found and not measured:
        raise InputError(f"{checkpoints}: none of {len(found)} checkpoints could be measured")
    measured += ready
    return Reproduction(measured, _write(out, tables, measured, datasets, rules, figure))


def find_checkpoints(folder: Path) -> dict[str, Path]:
    """Label -> model file, for those in the folder and its subfolders. Raises InputError if there are none.

    The label is the path relative to the folder, or, for a training run's model.safetensors, that of its folder. The
    best.safetensors of such a run is skipped: it was chosen by a validation, perhaps on the frames that are measured
    here.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of checkpoints")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in CHECKPOINT_SUFFIXES and path.is_file()]
    found = [path for path in found if not path.name.startswith(".") and not _is_best_of_run(path)]
    if not found:
        raise InputError(f"{folder}: no checkpoint; expected files ending in {', '.join(CHECKPOINT_SUFFIXES)}")
    return {_label(path, folder): path for path in sorted(found, key=natural_key)}


def without_copies(checkpoints: dict[str, Path]) -> dict[str, Path]:
    """Those whose files differ: a copy would count as one more seed, but without any spread. Logs each copy."""
    first: dict[str, str] = {}
    kept = {}
    for label, path in checkpoints.items():
        try:
            digest = short_digest(path)
        except OSError:  # Loading it will report what is wrong.
            digest = label
        if first.setdefault(digest, label) == label:
            kept[label] = path
        else:
            _log.warning("skipped: %s: a copy of %s", label, first[digest])
    return kept


def _measure(evaluator: Evaluator, checkpoints: dict[str, Path]) -> list[Measurement]:
    measured = []
    for label, file in checkpoints.items():
        _log.info("%s: %s, on %s", label, file, evaluator.device)
        try:
            found = evaluator.measure_checkpoint(file, label)
        except WeightsError as error:
            _log.warning("skipped: %s", error)
            continue
        if not found:
            _log.warning("skipped: %s: the paper has no table for such a model", label)
        measured += found
    return measured


def _has_crf() -> bool:
    try:
        crf.require()
    except SaliencyError as error:
        _log.warning('"Ours+" is left out: %s', error)
        return False
    return True


def _write(
    out: Path,
    tables: Sequence[int],
    measured: list[Measurement],
    datasets: dict[str, Dataset],
    rules: Rules,
    figure: bool,
) -> list[Path]:
    for name, page in _PAGES.items():
        # Paths may contain bytes that are not UTF-8. Their escapes are the same in JSON.
        write_file(out / name, page(tables, measured, datasets, rules).encode(errors="backslashreplace"))
    written = [out / name for name in _PAGES]
    if measured and figure:
        figures = [out / name for name in _FIGURES]
        plot_curves(curves_of((measurement.method.label, measurement.scores) for measurement in measured), figures)
        written += figures
    return written


def _is_best_of_run(path: Path) -> bool:
    return path.name == "best.safetensors" and path.with_name(_OF_RUN).is_file()


def _label(path: Path, folder: Path) -> str:
    named = path.parent if path.name == _OF_RUN and path.parent != folder else path
    return str(named.relative_to(folder))
