"""`pdb-saliency reproduce`: the paper's tables, measured over what is here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pdb_saliency.errors import InputError, SaliencyError, WeightsError

from .arguments import (
    add_command,
    add_data_options,
    add_device,
    add_output,
    add_threshold,
    add_verbosity,
    add_workers,
    path,
    path_type,
)
from .console import say, tell

_TABLES = (1, 2, 4, 5)
_FILES = ("tables.md", "tables.json", "figure4.png", "figure4.pdf")
_HELP = """\
Run checkpoints on the paper's test sets and set what they score beside the paper's numbers: Tables 1, 2, 4 and 5 (Markdown
and JSON) and the precision-recall plots of Figure 4 (PNG and PDF). Every cell says whether it was measured here, is quoted
from the paper, or is absent.

  --data-root    DAVIS-2016 (the 20 sequences of `val`), FBMS (`test`) and ViSal are looked for below it. A folder that holds
                 only some of DAVIS's test sequences is taken as a part of it, and the column says so.
  --checkpoints  every .safetensors, .pth and .caffemodel file in the folder and below. Its configuration says where it
                 belongs: without temporal module to Table 4, by its rates or ASPP; with one to Table 5; PDB-ConvLSTM also
                 to Tables 1 and 2. Checkpoints that differ in nothing but their weights (seeds) make one row: mean and
                 standard deviation. Of a finished run of `train` model.safetensors is taken, not best.safetensors, which
                 was chosen by the scores on its validation set.
  --maps         ready maps of any method: METHOD/DAVIS/SEQUENCE/FRAME.png (FBMS, ViSal).

Maps are kept in OUT/maps, and are not made again as long as the checkpoint is the same: an interrupted run goes on where it
was. "Ours+" needs the extra `crf`, and half a second a frame.
"""

_EXAMPLES = """\
examples:
  pdb-saliency reproduce --data-root data --checkpoints runs -o tables
  pdb-saliency reproduce --data-root data --checkpoints seeds --tables 5 --no-crf -o ablation
  pdb-saliency reproduce --dataset DAVIS=DAVIS-2016/val --maps methods -o tables --normalise
"""


def add_parser(commands: Any) -> None:
    help = "the paper's tables, measured over what is here"
    parser = add_command(commands, "reproduce", reproduce, help=help, description=_HELP, epilog=_EXAMPLES)
    add_output(parser, required=True, help="folder for the results; made if absent")
    add_data_options(parser)
    place_help = "where a test set is (DAVIS, FBMS or ViSal); may be repeated"
    parser.add_argument("--dataset", metavar="SET=PLACE", type=_place, action="append", default=[], help=place_help)
    parser.add_argument("--checkpoints", metavar="DIR", type=path_type, help="folder of checkpoints")
    parser.add_argument("--maps", metavar="DIR", type=path_type, help="folder of ready maps, a folder for each method")
    parser.add_argument(
        "--tables", type=_tables, default=_TABLES, metavar="LIST", help="comma list of 1,2,4,5 (default: all)"
    )
    figures_help = "4 or none; the plots need the extra `train` (default: 4)"
    parser.add_argument("--figures", choices=("4", "none"), default="4", metavar="LIST", help=figures_help)
    parser.add_argument("--no-crf", action="store_true", help='leave out "Ours+" of Table 2')
    add_threshold(parser, "the masks that J and F compare")
    parser.add_argument(
        "--normalise", action="store_true", help="stretch every map to its minimum and maximum, as the authors did"
    )
    add_device(parser)
    add_workers(parser, what="processes for the scores")
    add_verbosity(parser, verbose="also tell checkpoints, device and time")


def reproduce(arguments: argparse.Namespace) -> None:
    from pdb_saliency.data.sets.check import check_dataset
    from pdb_saliency.evaluation.paper.comparison import markdown, to_json
    from pdb_saliency.evaluation.paper.test_sets import PAPER_SETS, find_paper_sets
    from pdb_saliency.evaluation.plot import check_plot
    from pdb_saliency.runtime.files import check_file, write_file

    out = arguments.output
    if not arguments.data_root and not arguments.dataset:
        raise InputError("no test set is named: expected --data-root or --dataset")
    with_figure = arguments.figures == "4"
    if with_figure:
        check_plot(out / "figure4.png")
    for name in _FILES:
        check_file(out / name)
    places = dict(arguments.dataset)
    if len(places) < len(arguments.dataset):
        raise InputError("--dataset names a test set twice: expected one place for each")
    datasets = find_paper_sets(arguments.data_root, places)
    for name, paper_set in PAPER_SETS.items():
        tell("note", f"{name}: {paper_set.describe(datasets[name]) if name in datasets else 'absent'}")
    if arguments.checkpoints or arguments.maps:
        datasets = {name: check_dataset(dataset, broken=arguments.broken) for name, dataset in datasets.items()}
    bench, measured = _measure(arguments, datasets)
    for name, form in {"tables.md": markdown, "tables.json": to_json}.items():
        text = form(arguments.tables, measured, datasets, bench.rules)
        write_file(
            out / name, text.encode(errors="backslashreplace")
        )  # JSON has the same escapes, of bytes of no encoding.
    written = [out / "tables.md", out / "tables.json"]
    if measured and with_figure:
        written += _plot(measured, out)
    say(f"{len(measured)} measurement{'s' * (len(measured) != 1)} -> {', '.join(map(str, written))}")


def _measure(arguments: argparse.Namespace, datasets: dict) -> tuple:
    from pdb_saliency.evaluation.paper.reproduction import Bench, find_checkpoints, without_copies
    from pdb_saliency.evaluation.scoring import Rules
    from pdb_saliency.inference.crf import require
    from pdb_saliency.inference.devices import resolve_device

    checkpoints = find_checkpoints(arguments.checkpoints) if arguments.checkpoints else {}
    checkpoints = without_copies(checkpoints, lambda text: tell("note", f"passed over: {text}"))
    use_crf = 2 in arguments.tables and not arguments.no_crf and bool(checkpoints)
    if use_crf:
        try:
            require()
        except SaliencyError as error:
            tell("note", f'"Ours+" is left out: {error}')
            use_crf = False
    rules = Rules(arguments.threshold, arguments.normalise)
    device = resolve_device(arguments.device)
    bench = Bench(datasets, device, arguments.output / "maps", rules, arguments.workers, use_crf)
    ready = bench.measure_maps(arguments.maps) if arguments.maps else []  # First: they may be refused at once.
    measured = []
    for label, file in checkpoints.items():
        tell("info", f"{label}: {file}, on {device}")
        try:
            found = bench.measure_checkpoint(file, label)
        except WeightsError as error:
            tell("note", f"passed over: {error}")
            continue
        if not found:
            tell("note", f"passed over: {label}: the paper has no table for such a model")
        measured += found
    if checkpoints and not measured:
        raise InputError(f"{arguments.checkpoints}: none of {len(checkpoints)} checkpoints could be measured")
    measured += ready
    for note in (note for measurement in measured for note in measurement.scores.notes):
        tell("note", note)
    return bench, measured


def _plot(measured: list, out: Path) -> list[Path]:
    from pdb_saliency.evaluation.plot import Curve, plot_curves

    curves: dict[str, list[Curve]] = {}
    for measurement in measured:
        total = measurement.scores.total
        curve = Curve(measurement.method.label, total.precision, total.recall, total.max_f, total.max_f_cut)
        curves.setdefault(measurement.scores.task.dataset, []).append(curve)
    paths = [out / "figure4.png", out / "figure4.pdf"]
    plot_curves(curves, paths)
    return paths


def _tables(text: str) -> tuple[int, ...]:
    chosen = text.split(",")
    if not set(chosen) <= set(map(str, _TABLES)):
        raise argparse.ArgumentTypeError(f"expected a comma list of {', '.join(map(str, _TABLES))}, got {text!r}")
    return tuple(number for number in _TABLES if str(number) in chosen)


def _place(text: str) -> tuple[str, str]:
    name, separator, place = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected SET=PLACE, got {text!r}")
    return name, path(place)
