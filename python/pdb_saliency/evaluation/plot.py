"""Precision-recall plots, like Figure 4 of the paper."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.runtime.files import write_file
from pdb_saliency.runtime.progress import printable

from .scoring import TaskScores

PLOT_SUFFIXES = (".png", ".pdf")
_LONGEST_NAME = 36
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """precision, recall: (256,), of the maps cut at levels 0 to 255.

    max_f: the best F-measure. max_f_cut: the saliency at which it is reached, 0 to 1.
    """

    label: str
    precision: Sequence[float]
    recall: Sequence[float]
    max_f: float
    max_f_cut: float


def curves_of(results: Iterable[tuple[str, TaskScores]]) -> dict[str, list[Curve]]:
    """Data set -> its curves. results: pairs of a label and scores."""
    curves: dict[str, list[Curve]] = {}
    for label, scores in results:
        total = scores.total
        curve = Curve(label, total.precision, total.recall, total.max_f, total.max_f_cut)
        curves.setdefault(scores.task.dataset, []).append(curve)
    return curves


def check_plot(path: Path) -> None:
    """Raises what would stop `plot_curves` later.

    That is OutputError for a suffix other than .png or .pdf, and SaliencyError without matplotlib.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OutputError(f"{path}: a plot must end in {' or '.join(PLOT_SUFFIXES)}")
    try:
        with _ignoring_local_settings():
            import matplotlib  # noqa: F401
    except ImportError as error:
        raise SaliencyError("plots need matplotlib: pip install 'pdb-ext[train]'") from error


def plot_curves(curves: Mapping[str, Sequence[Curve]], paths: Sequence[Path]) -> None:
    """One panel for each data set; a dot on each curve marks the highest F-measure.

    curves: data set -> the curves of the methods. paths: .png or .pdf files. Raises OutputError.
    """
    with _ignoring_local_settings():
        from matplotlib.figure import Figure  # Not pyplot, which looks for a display.

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    labels = list(dict.fromkeys(curve.label for members in curves.values() for curve in members))
    for panel, (dataset, members) in zip(panels, curves.items()):
        lines, names = [], []
        for curve in sorted(members, key=lambda curve: -curve.max_f):
            number = labels.index(curve.label)
            style = {"color": f"C{number % 10}", "linestyle": _STYLES[number // 10 % len(_STYLES)]}
            # At cuts that no map reaches, precision and recall are 0: the curve would drop to the origin.
            points = [pair for pair in zip(curve.recall, curve.precision) if pair[0] > 0]
            lines += panel.plot(*zip(*points), **style)
            names.append(f"{_short(curve.label)} (max F {curve.max_f:.3f})")
            best = round(curve.max_f_cut * 255)
            panel.plot(curve.recall[best], curve.precision[best], "o", color=style["color"], markersize=5)
        panel.set_title(_short(dataset), parse_math=False)
        panel.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        panel.grid(alpha=0.3)
        legend = panel.legend(lines, [""] * len(lines), loc="lower left", fontsize="small")
        for text, name in zip(legend.get_texts(), names):  # A legend ignores labels such as "_mine", and "$" is TeX.
            text.set(text=name, parse_math=False)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for path in paths:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
        write_file(path, buffer.getvalue())


@contextmanager
def _ignoring_local_settings() -> Iterator[None]:
    """Keeps matplotlib, while it loads, from reading `matplotlibrc` in the current folder.

    It prefers that file to the user's own settings, and anyone may have written to the folder.
    """
    if not os.path.exists("matplotlibrc"):
        yield
        return
    here = os.getcwd()
    os.chdir(Path(__file__).parent)
    try:
        yield
    finally:
        os.chdir(here)


def _short(name: str) -> str:
    """The name of a folder, which may contain anything, shortened to fit into the plot."""
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME // 2]}...{text[-_LONGEST_NAME // 2 :]}"
