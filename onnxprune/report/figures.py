"""Figures for papers: one column of the results against another, as a vector file or a picture."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from onnxprune.common.errors import InputError
from onnxprune.common.files import make_folder, replacing
from onnxprune.report.series import error_bars, looks, named_series, over_seeds, sound_span
from onnxprune.results import store

_FORMATS = (".pdf", ".png", ".svg")

_WIDTH, _HEIGHT = 3.5, 2.6  # inches: a column of a two-column page
_CELL = (0.42, 0.22)  # inches: of a heat map
_ROW = 0.15  # inches a line of a legend takes
_SHORT = 26  # letters of names of which two fit side by side
_FEW = 6  # curves whose names find room among them
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":", "-.", (0, (8, 3)), (0, (8, 3, 2, 3)))
_LABELS = {
    "sparsity": "sparsity asked (%)",
    "achieved_sparsity": "removed (%)",
    "latency_ms_paired": "latency of a batch (ms)",
    "macs": "MACs",
    "effective_macs": "MACs without stored zeros",
    "speedup": "measured speedup",
    "theoretical_speedup": "theoretical speedup",
    "file_bytes": "file (bytes)",
    "training_seconds": "training (s)",
    "cross_entropy": "cross-entropy (nats)",
}
_OF_A_MOMENT = ("latency_ms_median", "latency_ms_p90")
_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 6.5,
    "legend.handlelength": 2.8,
    "legend.columnspacing": 1,
    "pdf.fonttype": 42,  # TrueType, embedded: many publishers refuse the default
    "svg.fonttype": "path",
    "svg.hashsalt": "onnxprune",  # the same figure is the same file
}


def plot(sweep: Path, x: str, y: str, out: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Draws column `y` against column `x`, a curve for each technique, with 95 % intervals where they are known; where
    there are several seeds, their mean and a band of one standard deviation. The axis is as long as networks that have
    not collapsed need it.

    Args:
        say: gets a line for each point that is left out because its files cannot be believed.

    Raises:
        InputError: not a sweep with finished points, a column that is not a measured number or is of other moments
            from row to row, or a file name whose suffix is no format.
        RunError: the folder of the file cannot be made.
    """
    check_format(out)
    table = store.result_table(sweep, say)
    if not len(table):
        raise InputError(f"{sweep} has no finished point yet")
    for column in (x, y):
        _check_numeric(table, column)
    _draw(table, x, y, out)


def check_format(out: Path) -> None:
    """Refuses a file name that no figure can have.

    Raises:
        InputError: its suffix is no format.
    """
    if out.suffix.lower() not in _FORMATS:
        raise InputError(f"cannot tell the format of {out}: expected a name that ends in {', '.join(_FORMATS)}")


def _check_numeric(table: pd.DataFrame, column: str) -> None:
    if column in _OF_A_MOMENT:
        raise InputError(
            f"column '{column}' was measured at another moment in every row, so that its values do not compare: use "
            "latency_ms_paired or speedup"
        )
    numbers = table.select_dtypes("number").dropna(axis="columns", how="all")
    if column not in numbers:
        known = ", ".join(map(str, numbers.columns))
        if column in table and table[column].isna().all():
            raise InputError(f"nothing in column '{column}': it was not measured; these have numbers: {known}")
        raise InputError(f"no numeric column '{column}': expected one of {known}")


def _draw(table: pd.DataFrame, x: str, y: str, out: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    make_folder(out.parent)
    names = named_series(table)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        curves = looks(table, names)
        for name, look in curves.items():
            points = over_seeds(table[names == name], x, y)
            axes.plot(
                points["x"], points["y"], label=name, color=look.colour, marker=_MARKERS[look.marker],
                linestyle=_DASHES[look.dash], linewidth=1.2, markersize=3.5,
            )  # fmt: skip
            axes.errorbar(
                points["x"], points["y"], error_bars(points), color=look.colour, linestyle="none", elinewidth=0.6,
                capsize=1.5, capthick=0.6,
            )  # fmt: skip
            if (points["seeds"] > 1).any():
                low, high = points["y"] - points["std"], points["y"] + points["std"]
                axes.fill_between(points["x"], low, high, color=look.colour, alpha=0.2, linewidth=0)
        axes.set_ylim(sound_span(table, y))
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(y))
        if len(curves) <= _FEW:
            axes.legend()
        else:
            columns = 2 if names.str.len().max() <= _SHORT else 1
            figure.set_figheight(_HEIGHT + _ROW * math.ceil(len(curves) / columns))
            figure.legend(loc="outside lower center", ncols=columns)
        _save(figure, out)


def heat_map(table: pd.DataFrame, title: str, legend: str, out: Path) -> None:
    """Draws a table of numbers as shades of one hue, with the numbers in them.

    Args:
        table: a row a layer, a column a sparsity in percent.
        legend: what the numbers are.

    Raises:
        InputError: a file name whose suffix is no format.
        RunError: the folder of the file cannot be made.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    check_format(out)
    make_folder(out.parent)
    rows, columns = table.shape
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(
            figsize=(max(_WIDTH, 1.8 + _CELL[0] * columns), max(1.9, 1.1 + _CELL[1] * rows)), layout="constrained"
        )
        axes = figure.add_subplot()
        values = table.to_numpy(float)
        most = max(1.0, float(values.max()))
        shades = axes.imshow(values, cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for row in range(rows):
            for column in range(columns):
                value = values[row, column]
                axes.text(
                    column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=6.5,
                    color="white" if value > 0.6 * most else "black",
                )  # fmt: skip
        axes.set_xticks(range(columns), [f"{sparsity:g}" for sparsity in table.columns])
        axes.set_yticks(range(rows), list(table.index))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("removed from this layer alone (%)")
        axes.set_title(title, fontsize=8)
        figure.colorbar(shades, label=legend, pad=0.02).outline.set_visible(False)
        _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    kind = out.suffix.lower().removeprefix(".")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with replacing(out) as partial:
        figure.savefig(partial, format=kind, dpi=300, metadata=undated.get(kind))


def _label(column: str) -> str:
    unit = " (%)" if column.endswith(("accuracy", "accuracy_change", "sparsity")) else ""
    return _LABELS.get(column, column.replace("_", " ") + unit)
