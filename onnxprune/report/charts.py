"""The figures of the report, as plotly describes them; the page colours them and shows the curves that are asked for.

The `meta` of a trace says which curve it belongs to (`series`; None: always shown), whether it is of networks before
their fine-tuning (`before`), and whether it is drawn in the colour of text (`neutral`). Names from files are escaped:
plotly understands some HTML.
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onnxprune.delivery import headline
from onnxprune.report.series import Look, error_bars, over_seeds, sound_span
from onnxprune.results.quality import quality_of, quality_of_study
from onnxprune.results.seeds import configurations

# plotly's name of each marker, and the same as an SVG path in a box from -6 to 6
MARKERS = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "square": "M-4.4 -4.4h8.8v8.8h-8.8z",
    "triangle-up": "M-5.5 4.5h11L0 -5.5z",
    "diamond": "M0 -6L6 0L0 6L-6 0z",
    "triangle-down": "M-5.5 -4.5h11L0 5.5z",
    "cross": "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = tuple(MARKERS)
_FEW = 1000  # points that SVG draws well; more are left to WebGL
# one hue: lightness tells alone; all so light that the text in it has a contrast of 5 or more
SCALE = [[0, "#f3f7fb"], [0.5, "#b4d0e9"], [1, "#5f9fd6"]]
ON_SCALE = "#10151b"


def accuracy_over_sparsity(rows: pd.DataFrame, names: pd.Series, looks: Mapping[str, Look]) -> go.Figure:
    """Mean accuracy of each curve with its 95 % intervals and a band of one standard deviation, and the same before
    fine-tuning, over what was removed."""
    quality = quality_of_study(rows).name
    figure = empty_figure("removed (%)", f"test {quality} (%)")
    lost: list[tuple[pd.DataFrame, str, Look]] = []
    ends: list[float] = []
    for name, look in looks.items():
        of_name = rows[names == name]
        points = over_seeds(of_name, "achieved_sparsity", quality)
        if (points["seeds"] > 1).any():
            figure.add_trace(_band(points[~points["collapsed"]], name, look))
        figure.add_trace(_curve(points[~points["collapsed"]], name, look))
        ends += points.loc[~points["collapsed"], ["low", "high"]].to_numpy(float).ravel().tolist()
        lost.append((points[points["collapsed"]], name, look))
        early = over_seeds(of_name, "achieved_sparsity", f"before_finetuning_{quality}")
        if len(early):  # schedules that prune while they train have none
            figure.add_trace(_curve(early, name, look, before=True))
    bases = rows.drop_duplicates(["sweep", "base_id"])
    if bases["batch_size"].nunique() == 1 and bases["sweep"].nunique() == 1:
        level = bases[f"base_{quality}"].mean()
        figure.add_trace(_neutral([0, 100], [level, level], f"base, {level:.2f} %", dash="dot"))
    low, high = sound_span(rows, quality, f"base_{quality}", ends=ends)
    figure.update_yaxes(range=[low, min(high, 100.4)])
    for points, name, look in lost:
        if len(points):
            figure.add_trace(_at_the_frame(points, name, look, low))
    return figure


def accuracy_over_cost(
    rows: pd.DataFrame, names: pd.Series, looks: Mapping[str, Look], column: str, title: str, *, front: bool
) -> go.Figure:
    """Every sound point's accuracy against a cost, and which configurations no other beats in both: of those whose
    networks are all sound, by their means over seeds."""
    quality = quality_of_study(rows).name
    figure = empty_figure(title, f"test {quality} (%)")
    costly = rows[(rows[column] > 0).fillna(False)]
    known = costly[~costly["collapsed"].astype(bool)]
    figure.update_xaxes(logarithmic(known[column]))
    for name, look in looks.items():
        figure.add_trace(
            _points(known[names.reindex(known.index) == name], column, quality, name, look, total=len(known))
        )
    if front:
        best = pareto_front(_means(costly, [column, quality]), column, quality)
        figure.add_trace(
            _neutral(best[column], best[quality], "Pareto front", dash="dash", shape="hv", mode="lines+markers")
        )
        figure.data[-1].update(marker={"symbol": "circle-open", "size": 14, "line": {"width": 1.5}}, hoverinfo="skip")
    return figure


def _means(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The means over the seeds of each configuration none of whose networks has collapsed."""
    numbers, collapsed = rows[columns].astype(float), rows["collapsed"].to_numpy(bool)
    sound = [positions for positions in configurations(rows) if not collapsed[positions].any()]
    return pd.DataFrame([numbers.iloc[positions].mean() for positions in sound], columns=columns)


def speedup_measured(rows: pd.DataFrame, names: pd.Series, looks: Mapping[str, Look]) -> go.Figure:
    """Measured speedup against the one that the counts promise, with the line where both are the same."""
    figure = empty_figure("speedup in theory", "measured speedup")
    counted = counted_whole(rows)
    known = counted[counted["speedup"].notna() & (counted["effective_macs"] > 0) & ~counted["collapsed"].astype(bool)]
    known = known.assign(promised=known["base_effective_macs"] / known["effective_macs"])
    axis = logarithmic(pd.concat([known["promised"], known["speedup"]]))
    figure.update_layout(xaxis=axis, yaxis=axis)
    for name, look in looks.items():
        of_name = known[names.reindex(known.index) == name]
        figure.add_trace(_points(of_name, "promised", "speedup", name, look, total=len(known)))
    if len(known):
        ends = [min(1.0, float(known["speedup"].min())), float(max(known["promised"].max(), known["speedup"].max()))]
        figure.add_trace(_neutral(ends, ends, "measured = theory", dash="dash"))
        figure.add_trace(_neutral(ends, [1, 1], "no gain", dash="dot"))
    return figure


def counted_whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of which no MACs are missing, nor of their bases: those of which ratios can be made."""
    missing = rows.reindex(columns=["macs_missing", "base_macs_missing"])
    return rows[missing.isna().all(axis=1)]


def pareto_front(rows: pd.DataFrame, column: str, quality: str = "accuracy") -> pd.DataFrame:
    """The rows that no other matches or beats in both quality and the column, which is a cost, in order of cost."""
    ordered = rows.sort_values([column, quality], ascending=[True, False], kind="stable")
    values = ordered[quality].astype(float)
    return ordered[values > values.cummax().shift(fill_value=-math.inf)]


def layer_map(rows: pd.DataFrame, layers: Mapping[str, Mapping[str, Mapping[str, int]]]) -> go.Figure:
    """Percent of each layer's units that is gone at each sparsity, on average over seeds.

    Args:
        layers: folder of a point -> layer -> `units` and `kept`.
    """
    found = pd.DataFrame(
        [
            (sparsity, layer, remains["units"], remains["kept"])
            for sparsity, folder in zip(rows["sparsity"], rows["folder"], strict=True)
            for layer, remains in layers[folder].items()
        ],
        columns=["sparsity", "layer", "units", "kept"],
    )
    mean = found.groupby(["layer", "sparsity"], sort=False)[["units", "kept"]].mean()
    order, levels = list(dict.fromkeys(found["layer"])), sorted(set(found["sparsity"]))
    kept, units = (
        mean[column].unstack("sparsity").reindex(index=order, columns=levels).to_numpy(float)
        for column in ("kept", "units")
    )
    figure = empty_figure("sparsity asked (%)", "")
    figure.add_trace(
        go.Heatmap(
            x=[f"{sparsity:g}" for sparsity in levels],
            y=[escape(layer) for layer in order],
            z=100 * (1 - kept / units),
            text=[[f"{gone:.0f}" for gone in row] for row in 100 * (1 - kept / units)],
            customdata=[
                [f"{count - left:,.6g} of {count:,.6g} removed" for left, count in zip(*layer, strict=True)]
                for layer in zip(kept, units, strict=True)
            ],
            texttemplate="%{text}",
            textfont={"color": ON_SCALE},
            hovertemplate="%{y} at %{x} %: %{customdata}, %{z:.1f} %<extra></extra>",
            zmin=0,
            zmax=100,
            colorscale=SCALE,
            xgap=1,
            ygap=1,
            colorbar=_key("removed (%)"),
        )
    )
    figure.update_layout(
        yaxis={"autorange": "reversed", "type": "category"},
        xaxis_type="category",
        height=max(260, 110 + 24 * len(order)),
        meta={"headings": ["layer", figure.layout.xaxis.title.text, "removed (%)"]},
    )
    return figure


def training_curves(
    rows: pd.DataFrame, losses: Mapping[str, list[float]], base_losses: Mapping[str, list[float]]
) -> go.Figure:
    """Training loss of each epoch: of the bases, and after them the fine-tuning of each point, by sparsity."""
    from plotly.colors import sample_colorscale

    figure = empty_figure("epoch", "training loss")
    figure.update_yaxes(type="log")
    last = 1
    for base in dict.fromkeys(rows["base_id"]):
        epochs = base_losses.get(base, [])
        figure.add_trace(
            _neutral(list(range(1, len(epochs) + 1)), epochs, escape(base), dash="solid", mode="lines+markers")
        )
        last = max(last, len(epochs))
    for sparsity, of_sparsity in rows.groupby("sparsity"):
        epoch: list[int | None] = []
        loss: list[float | None] = []
        seed: list[int | None] = []
        for row in of_sparsity[["folder", "schedule", "control", "base_id", "seed"]].astype(object).to_dict("records"):
            curve = losses[row["folder"]]
            first = 1 + (len(base_losses.get(row["base_id"], [])) if headline.is_finetuned(row) else 0)
            last = max(last, first + len(curve) - 1)
            # the None at the end keeps a seed's curve from going on into the next one's
            epoch += [*range(first, first + len(curve)), None]
            loss += [*curve, None]
            seed += [row["seed"]] * len(curve) + [None]
        share = float(str(sparsity)) / 100
        figure.add_trace(
            go.Scatter(
                x=epoch,
                y=loss,
                customdata=seed,
                name=f"{sparsity:g} %",
                mode="lines+markers",
                line={"color": sample_colorscale("Viridis", [0.1 + 0.75 * share])[0], "width": 1.5},
                marker={"size": 5},
                meta={"series": None},
                hovertemplate="%{fullData.name}, seed %{customdata}<br>epoch %{x}: %{y:.4g}<extra></extra>",
            )
        )
    figure.add_trace(_colour_key())
    figure.update_xaxes(tick0=0, dtick=math.ceil(last / 12))
    return figure


def _colour_key() -> go.Scatter:
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        meta={"series": None},
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": 100,
            "colorscale": "Viridis",
            "showscale": True,
            "colorbar": _key("sparsity (%)"),
        },
    )


def _key(title: str) -> dict[str, Any]:
    place = {"lenmode": "pixels", "len": 180, "y": 1, "yanchor": "top", "thickness": 12}
    return {"title": {"text": title}, **place}


def empty_figure(x: str, y: str) -> go.Figure:
    """Axes with these titles, laid out as all figures of the page are."""
    return go.Figure(
        layout={
            "template": {},
            "height": 380,
            "showlegend": False,
            "hovermode": "closest",
            "margin": {"l": 56, "r": 12, "t": 36, "b": 48},
            "xaxis": {"title": {"text": x}, "automargin": True},
            "yaxis": {"title": {"text": y}, "automargin": True},
        }
    )


def logarithmic(values: pd.Series) -> dict[str, Any]:
    """A logarithmic axis with whole numbers at its ticks: 1, 2 and 5 of each power of ten where it spans much."""
    numbers = values.to_numpy(float)
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (1.0, 1.0)
    spacing = {"dtick": "D2"} if high > 5 * low else {}
    return {"type": "log", "tickformat": "~s" if high > 1000 else "~g", **spacing}


def _curve(points: pd.DataFrame, name: str, look: Look, before: bool = False) -> go.Scatter:
    spread = [
        f" ± {std:.2f} of {seeds} seeds" if seeds > 1 else ""
        for std, seeds in zip(points["std"], points["seeds"], strict=True)
    ]
    when = " before fine-tuning" if before else ""
    return go.Scatter(
        x=points["x"],
        y=points["y"],
        customdata=spread,
        name=escape(name) + when,
        mode="lines+markers",
        error_y=None if before else _bars(points),
        opacity=0.55 if before else 1,
        line={"color": look.colour, "dash": "dot" if before else DASHES[look.dash], "width": 1.5 if before else 2},
        marker={"symbol": _SYMBOLS[look.marker] + ("-open" if before else ""), "size": 8},
        meta={"series": name, "before": before},
        hovertemplate="%{fullData.name}<br>%{x} %: %{y:.2f} %%{customdata}<extra></extra>",
    )


def _at_the_frame(points: pd.DataFrame, name: str, look: Look, low: float) -> go.Scatter:
    """Where networks are that predict the same for nearly every image, or one of several seeds is; `actual` in the
    meta has their accuracies."""
    return go.Scatter(
        x=points["x"],
        y=[low] * len(points),
        customdata=list(points["y"]),
        name=f"{escape(name)}, collapsed",
        mode="markers",
        marker={"symbol": "x", "size": 8, "color": look.colour},
        cliponaxis=False,
        meta={"series": name, "before": False, "actual": list(points["y"])},
        hovertemplate="%{fullData.name}<br>%{x} %: %{customdata:.2f} %<extra></extra>",
    )


def _bars(points: pd.DataFrame, *columns: str) -> dict[str, Any]:
    """Error bars as plotly describes them."""
    below, above = error_bars(points, *columns)
    look = {"thickness": 1, "width": 3}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def _band(points: pd.DataFrame, name: str, look: Look) -> go.Scatter:
    upper, lower = points["y"] + points["std"], points["y"] - points["std"]
    red, green, blue = (int(look.colour[start : start + 2], 16) for start in (1, 3, 5))
    return go.Scatter(
        x=[*points["x"], *reversed(list(points["x"]))],
        y=[*upper, *reversed(list(lower))],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.2)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name=f"{escape(name)}, standard deviation",
        meta={"series": name, "before": False},
    )


def _points(rows: pd.DataFrame, x: str, y: str, name: str, look: Look, *, total: int) -> go.Scatter | go.Scattergl:
    kind = go.Scatter if total <= _FEW else go.Scattergl
    return kind(
        x=rows[x].astype(float),
        y=rows[y].astype(float),
        name=escape(name),
        mode="markers",
        error_y=_bars(rows, y, f"{y}_low", f"{y}_high") if total <= _FEW else None,
        customdata=rows["told"],
        marker={"color": look.colour, "symbol": _SYMBOLS[look.marker], "size": 8, "opacity": 0.85},
        meta={"series": name, "before": False},
        hovertemplate="<b>%{fullData.name}</b>, %{customdata}<extra></extra>",
    )


def told(row: Mapping[Any, Any]) -> str:
    """What hovering over a point says; the rows that are drawn have it in a column `told`."""
    zeros = f" ({compact(row['effective_macs'])} without stored zeros)"
    least = "" if pd.isna(row.get("macs_missing")) else "at least "
    quality = quality_of(row).name
    early = row[f"before_finetuning_{quality}"]
    lines = [
        f"{headline.removed(row)}, seed {row['seed']}",
        f"{quality} {row[quality]:.2f} %" + ("" if pd.isna(early) else f", before fine-tuning {early:.2f} %"),
        least + f"{compact(row['macs'])} MACs" + (zeros if row["effective_macs"] != row["macs"] else ""),
    ]
    if not pd.isna(row["speedup"]):
        noise = 100 * row["speedup_noise"]
        lines.append(f"{row['latency_ms_paired']:.3f} ms, measured {row['speedup']:.2f}x, noise {noise:.1f} %")
        if row.get("speedup_beyond_theory") is True:
            lines.append("beyond theory and noise")
    return "<br>".join(lines)


def _neutral(x: Any, y: Any, name: str, *, dash: str, shape: str = "linear", mode: str = "lines") -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        mode=mode,
        line={"dash": dash, "width": 1.5, "shape": shape},
        marker={"size": 5},
        hoverinfo="name",
        meta={"series": None, "neutral": True},
    )


def compact(number: float) -> str:
    """Three digits and a unit, as 1.12M; nothing where there is no number."""
    if pd.isna(number):
        return ""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
