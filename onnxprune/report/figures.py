"""Figures for papers: one column of the results against another, as a vector file or a picture."""

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from onnxprune.common.errors import InputError
from onnxprune.common.files import make_folder, replacing
from onnxprune.report.series import error_bars, looks, named_series, over_seeds, sound_span
from onnxprune.report.sources import unlike_names
from onnxprune.results.conditions import select
from onnxprune.results.quality import quality_of_study
from onnxprune.results.seeds import training_columns
from onnxprune.results.tables import result_table

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
    "svg.fonttype": "none",  # text stays text: it can be searched and changed
    "svg.hashsalt": "onnxprune",  # the same figure is the same file
}


def plot(
    sweeps: Sequence[Path],
    x: str,
    y: str | None,
    out: Path | None,
    *,
    where: Sequence[str] = (),
    log: tuple[bool, bool] = (False, False),
    width: float = _WIDTH,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Draws column `y` against column `x`, a curve for each technique and sweep, from left to right, with 95 %
    intervals where they are known; where there are several seeds, their mean and a band of one standard deviation. The
    axis is as long as networks that have not collapsed need it; those that have are marked at the frame of sparsities,
    and left out elsewhere.

    Args:
        y: None: the accuracy or, where there are no labels, the fidelity.
        out: of which the suffix is the format; None: Y-over-X.pdf in the folder of the first sweep.
        where: conditions that rows must fulfil (`onnxprune.results.conditions`).
        log: whether each axis, across and upwards, is logarithmic.
        width: of the figure, inches.
        say: gets a line for each point that is left out because its files cannot be believed.

    Returns:
        The file.

    Raises:
        InputError: not a sweep with finished points, a column that is not a measured number or is of
            other moments from row to row, a condition that cannot be
            used, or a file name whose suffix is no format.
        RunError: the folder of the file cannot be made.
    """
    if out is not None:
        check_format(out)
    tables = []
    for sweep, name in zip(sweeps, unlike_names(sweeps), strict=True):
        found = result_table(sweep, say)
        if not len(found):
            raise InputError(f"{sweep} has no finished point yet")
        tables.append(found.assign(sweep=name))
    table = select(pd.concat(tables, ignore_index=True), where)
    y = y or quality_of_study(table).name
    out = out or sweeps[0] / f"{y}-over-{x}.pdf"
    for column, logarithmic in zip((x, y), log, strict=True):
        _check_numeric(table, column)
        if logarithmic and not (table[column] > 0).any():
            raise InputError(f"column '{column}' has nothing above 0, which a logarithmic axis needs")
    _draw(table, x, y, out, log, width)
    return out


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
        if column in table and table[column].isna().all():
            raise InputError(f"nothing in column '{column}': it was not measured")
        near = get_close_matches(column, map(str, numbers.columns), n=3)
        raise InputError(
            f"no numeric column '{column}'"
            + (f": did you mean {' or '.join(near)}?" if near else "; docs/columns.md has all columns")
        )


def _draw(table: pd.DataFrame, x: str, y: str, out: Path, log: tuple[bool, bool], width: float) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    make_folder(out.parent)
    names = named_series(table)
    height = _HEIGHT * min(1.5, width / _WIDTH)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        for axis, logarithmic in zip("xy", log, strict=True):
            if logarithmic:
                getattr(axes, f"set_{axis}scale")("log", nonpositive="mask" if axis == "x" else "clip")
        ends: list[float] = []
        for name, look in looks(table, names).items():
            points = over_seeds(table[names == name], x, y)
            sound = points[~points["collapsed"]].sort_values("x", kind="stable")  # from left to right: no loops
            axes.plot(
                sound["x"], sound["y"], label=name, color=look.colour, marker=_MARKERS[look.marker],
                linestyle=_DASHES[look.dash], linewidth=1.2, markersize=3.5,
            )  # fmt: skip
            ends += [*sound["low"], *sound["high"]]
            axes.errorbar(
                sound["x"], sound["y"], error_bars(sound), color=look.colour, linestyle="none", elinewidth=0.6,
                capsize=1.5, capthick=0.6,
            )  # fmt: skip
            if (sound["seeds"] > 1).any():
                low, high = sound["y"] - sound["std"], sound["y"] + sound["std"]
                axes.fill_between(sound["x"], low, high, color=look.colour, alpha=0.2, linewidth=0)
            if x.endswith("sparsity"):  # elsewhere they are so far off that the others would be squeezed together
                _mark_collapsed(axes, points[points["collapsed"]])
        if not log[1]:
            levels = [column for column in (f"base_{y}",) if column in table]
            axes.set_ylim(sound_span(table, y, *levels, ends=ends))
        for level, label, style in _levels(table, y):
            axes.axhline(level, color="0.35", linestyle=style, linewidth=0.8, zorder=1, label=label)
        for scale, logarithmic in zip((axes.xaxis, axes.yaxis), log, strict=True):
            first, last = scale.get_view_interval()
            if logarithmic and last / first >= _DECADE:  # within less, those between say all that there is
                scale.set_minor_formatter(NullFormatter())
        axes.set_xlabel(_label(x))
        axes.set_ylabel(_label(y))
        shown = len(axes.get_legend_handles_labels()[0])
        if shown <= _FEW:
            axes.legend()
        else:
            columns = 2 if names.str.len().max() <= _SHORT * width / _WIDTH else 1
            figure.set_figheight(height + _ROW * math.ceil(shown / columns))
            figure.legend(loc="outside lower center", ncols=columns)
        _save(figure, out)


def _mark_collapsed(axes: Any, points: pd.DataFrame) -> None:
    """Crosses at the lower frame, where networks are that predict the same for nearly every image."""
    if len(points):
        named = "collapsed" in axes.get_legend_handles_labels()[1]
        axes.plot(
            points["x"], [0.0] * len(points), "x", color="0.35", markersize=4, clip_on=False,
            transform=axes.get_xaxis_transform(), label="" if named else "collapsed",
        )  # fmt: skip


_DECADE = 10  # from one label of a logarithmic axis to the next
_JUDGED = ("accuracy", "top5_accuracy", "cross_entropy", "fidelity", "relative_error", "cosine", "agreement")


def _levels(table: pd.DataFrame, y: str) -> list[tuple[float, str, str]]:
    """The horizontal lines: value, label and style, where each is one for all curves."""
    found = []
    bases = table.drop_duplicates(["sweep", "base_id"])
    studies = bases[["model", "dataset", "batch_size", "sweep"]].drop_duplicates()
    if len(studies) == 1:
        if y != "accuracy_change" and f"base_{y}" in table and bases[f"base_{y}"].notna().any():
            found.append((float(bases[f"base_{y}"].mean()), "unpruned", ":"))
        controls = table[(table["sparsity"] == 0) & (table.get("control", "none") == "none") & table[y].notna()]
        alike = len(controls) > 0 and controls.groupby(training_columns(controls), dropna=False).ngroups == 1
        if alike and y.removeprefix("validation_") in _JUDGED:
            found.append((float(controls[y].mean()), "0 % control", "-."))
    return found


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
    unit = " (%)" if column.endswith(("accuracy", "fidelity", "agreement", "_change", "sparsity")) else ""
    return _LABELS.get(column, column.replace("_", " ") + unit)
