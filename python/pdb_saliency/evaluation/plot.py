"""Precision-recall plots, as Figure 4 of the paper."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.errors import OutputError, SaliencyError
from pdb_saliency.runtime.files import write_file
from pdb_saliency.runtime.progress import printable

PLOT_SUFFIXES = (".png", ".pdf")
_LONGEST_NAME = 36
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """precision, recall: (256,), of the map cut at levels 0 to 255. max_f, max_f_cut: the best F-measure and its cut."""

    label: str
    precision: Sequence[float]
    recall: Sequence[float]
    max_f: float
    max_f_cut: float


def check_plot(path: Path) -> None:
    """Raises what would stop `plot_curves` later: another suffix than .png or .pdf, or no matplotlib."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OutputError(f"{path}: a plot must end in {' or '.join(PLOT_SUFFIXES)}")
    try:
        with _away_from_settings():
            import matplotlib  # noqa: F401
    except ImportError as error:
        raise SaliencyError("plots need matplotlib: pip install 'pdb-ext[train]'") from error


def plot_curves(curves: Mapping[str, Sequence[Curve]], paths: Sequence[Path]) -> None:
    """One panel for each data set; a dot on each curve where the F-measure is highest.

    curves: data set -> methods. paths: .png or .pdf files. Raises OutputError.
    """
    with _away_from_settings():
        from matplotlib.figure import Figure  # Not pyplot, which looks for a screen.

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
            # At cuts that no map reaches there is nothing to be precise about, and the curve would fall to the corner.
            points = [pair for pair in zip(curve.recall, curve.precision) if pair[0] > 0]
            lines += panel.plot(*zip(*points), **style)
            names.append(f"{_short(curve.label)} (max F {curve.max_f:.3f})")
            best = round(curve.max_f_cut * 255)
            panel.plot(curve.recall[best], curve.precision[best], "o", color=style["color"], markersize=5)
        panel.set_title(_short(dataset), parse_math=False)
        panel.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        panel.grid(alpha=0.3)
        legend = panel.legend(lines, [""] * len(lines), loc="lower left", fontsize="small")
        for text, name in zip(legend.get_texts(), names):  # Names of folders: "_mine" is none to a legend, "$" is TeX.
            text.set(text=name, parse_math=False)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    for path in paths:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.lower()[1:], dpi=150)
        write_file(path, buffer.getvalue())


@contextmanager
def _away_from_settings() -> Iterator[None]:
    """As it is loaded, matplotlib prefers a file `matplotlibrc` of the current folder, which may be anybody's, to the user's."""
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
    """A name of folders, which may hold anything and be longer than the plot is wide."""
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME // 2]}...{text[-_LONGEST_NAME // 2 :]}"
